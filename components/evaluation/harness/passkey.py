"""Pass keys by depth and length: where in a text, and in how long a one, a model still finds a number by its name.

The problems are those of ``components/evaluation/passkey.py``, whose names and numbers never occur in our training;
here they stand on a grid, up to any length.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from components.evaluation.harness.ruler.tasks import prose
from components.evaluation.harness.task import Question, Scores, Task
from components.evaluation.passkey import MAX_ANSWER_TOKENS, is_right, problem_of_length, sentences
from components.stage import StageError
from model.tokenizer import Tokenizer

if TYPE_CHECKING:
    import pandas as pd

NAME = "passkey"
DEPTHS = 10
"""Rows of the grid; a key lies in the middle of its tenth of the text."""
SEED = 20_250_101
"""Of the keys and of the text around them: the same in every evaluation."""


def of_length(tokenizer: Tokenizer, length: int, count: int, folder: Path | None) -> list[Question]:
    """``count`` questions of at most ``length`` tokens with their answers, the depths in turn."""
    haystack = filler(folder)
    found = []
    for number in range(count):
        row = number % DEPTHS
        depth, item = (row + 0.5) / DEPTHS, f"{length}/{number}"
        document, prompt = problem_of_length(tokenizer, haystack, length, depth, f"{SEED}-{item}")
        if len(prompt) + MAX_ANSWER_TOKENS > length:
            raise StageError(f"task {NAME} at {length:,} tokens: its shortest text is longer; ask for a greater length")
        asked = document.questions[0]
        found.append(Question(item, document.prompt(), asked.answer, reference=(asked, document.context),
                              group=f"depth {100 * depth:.0f}%", length=length))  # fmt: skip
    return found


def in_conversation(question: Question) -> Question:
    """The question at the end of the text, its answer begun."""
    asked, context = question.reference
    sentence, _, beginning = asked.prompt.partition("? ")
    return replace(question, prompt=f"{context}\n{sentence}?", prefix=beginning)


def judge(questions: Sequence[Question], answers: Sequence[Sequence[str]]) -> Scores:
    """A metric named like the length: the first thing said is the number."""
    return [
        {str(q.length): sum(is_right(text, q.reference[0].answer.strip()) for text in given) / len(given)}
        for q, given in zip(questions, answers, strict=True)
    ]


@cache
def filler(folder: Path | None) -> list[str]:
    return sentences(" ".join(prose(folder)))


def grid(items: "pd.DataFrame") -> dict[int, dict[str, float]]:
    """Share of keys found, length -> depth -> share, of a table of items; empty where it has none of this task."""
    mine = items[items["metric"].str.match(rf"{NAME}\.\d+$")]
    found: dict[int, dict[str, float]] = {}
    for (metric, depth), rows in sorted(mine.groupby(["metric", "group"]), key=lambda entry: _percent(entry[0][1])):
        found.setdefault(int(str(metric).rpartition(".")[2]), {})[str(depth)] = float(rows["score"].mean())
    return dict(sorted(found.items()))


def _percent(depth: str) -> int:
    """``depth 45%`` -> 45."""
    return int(depth.removeprefix("depth ").removesuffix("%"))


def heat_map(cells: Mapping[int, Mapping[str, float]]) -> str:
    """The grid as SVG, lengths from left to right, the start of the text on top."""
    from components.evaluation import plots

    depths = sorted({depth for column in cells.values() for depth in column}, key=_percent)
    rows = [[column.get(depth) for column in cells.values()] for depth in depths]
    return plots.heat_map(
        NAME, rows, [depth.removeprefix("depth ") for depth in depths], [f"{length:,}" for length in cells],
        ("context length (tokens)", "depth of the key", "% of keys found"),
    )  # fmt: skip


PASSKEY = Task(
    NAME, "generation", lambda folder: [], judge, max_new_tokens=MAX_ANSWER_TOKENS, conversation=in_conversation,
    has_examples=False, sized=of_length, examples=5 * DEPTHS,
)  # fmt: skip

__all__ = ["DEPTHS", "NAME", "PASSKEY", "grid", "heat_map"]
