"""Families of reasoning-gym (arXiv 2505.24760): questions made by a program, answers judged by the family's own."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from components.evaluation.harness.task import Question, Scores, Task

FAMILIES = (
    "chain_sum", "gcd", "simple_equations", "letter_counting", "spell_backward", "number_sorting", "leg_counting",
    "basic_arithmetic",
)  # fmt: skip
PER_FAMILY = 100
SEED = 20_250_101
"""Of the questions: the same ones in every evaluation."""


def questions(folder: Path | None) -> list[Question]:
    """``PER_FAMILY`` of each family, one of each after the other, so that any first few are spread over them."""
    from reasoning_gym.utils import SYSTEM_PROMPTS

    found = []
    for number in range(PER_FAMILY):
        for family in FAMILIES:
            entry = dataset(family)[number]
            found.append(
                Question(
                    id=f"{family}/{number}",
                    prompt=entry["question"],
                    target=f"\n<answer>{entry['answer']}</answer>",
                    reference=(family, entry),
                    group=family,
                    system=SYSTEM_PROMPTS["direct"],
                )
            )
    return found


def judge(questions: Sequence[Question], answers: Sequence[Sequence[str]]) -> Scores:
    """``score``: the family's own, from 0 to 1; ``acc``: it is full marks; ``answered``: it stood in its tags."""
    from reasoning_gym.utils import extract_answer

    scores = []
    for question, given in zip(questions, answers, strict=True):
        family, entry = question.reference
        extracted = [extract_answer(answer) for answer in given]
        points = [float(dataset(family).score_answer(one, entry)) for one in extracted]
        scores.append({
            "acc": sum(point >= 1.0 for point in points) / len(points),
            "score": sum(points) / len(points),
            "answered": sum(one is not None for one in extracted) / len(extracted),
        })  # fmt: skip
    return scores


@cache
def dataset(family: str) -> Any:
    """A family's generator, which is also its judge."""
    from reasoning_gym import create_dataset

    return create_dataset(family, size=PER_FAMILY, seed=SEED)


REASONING = Task("reasoning", "generation", questions, judge, max_new_tokens=256)
