"""HumanEval (arXiv 2107.03374): functions written from their docstrings, run against hidden tests in the sandbox."""

from collections.abc import Sequence
from dataclasses import replace
from math import comb
from pathlib import Path

from components.evaluation.harness.data import field, read_rows
from components.evaluation.harness.task import Question, Scores, Task
from components.sandbox.human_eval import Problem, program
from components.sandbox.job import Limits
from components.sandbox.pool import shared_pool
from components.sandbox.run import python_job

LIMITS = Limits(timeout=10.0)
"""Seconds of wall clock. The owners give 3; a busy machine should not make a right program wrong."""
PASS_AT = (1, 10, 100)
FENCE = "```"


def questions(folder: Path | None) -> list[Question]:
    """All 164."""
    keys = ("task_id", "prompt", "canonical_solution", "test", "entry_point")
    problems = [
        Problem(*(str(field(row, key, f"humaneval, record {number + 1}")) for key in keys))
        for number, row in enumerate(read_rows("humaneval", folder))
    ]
    return [Question(id=p.name, prompt=p.prompt, target=p.solution, reference=p) for p in problems]


def in_conversation(question: Question) -> Question:
    """As lm-eval's humaneval_instruct: asked in words, the answer begun with the code so far."""
    asked = "Write a solution to the following problem and make sure that it passes the tests:\n"
    return replace(
        question,
        prompt=f"{asked}{FENCE}python\n{question.prompt}\n{FENCE}\n",
        prefix=f"Here is the completed function:\n{FENCE}python\n{question.prompt}\n",
        target=f"{question.target}{FENCE}",
    )


def judge(questions: Sequence[Question], answers: Sequence[Sequence[str]]) -> Scores:
    """``pass@k`` for every k that there are samples for; an answer ends where its code block does."""
    pool = shared_pool()
    jobs = [
        python_job(program(question.reference, answer.split(FENCE)[0]), LIMITS)
        for question, given in zip(questions, answers, strict=True)
        for answer in given
    ]
    passed = iter([result.status == "passed" for result in pool.map(jobs)])
    right = [sum(next(passed) for _ in given) for given in answers]
    return [
        {f"pass@{k}": pass_at(len(given), count, k) for k in PASS_AT if k <= len(given)}
        for given, count in zip(answers, right, strict=True)
    ]


def pass_at(samples: int, right: int, k: int) -> float:
    """Chance that one of ``k`` answers, drawn from ``samples`` of which ``right`` pass, passes (equation 1)."""
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} needs at least {k} samples, there are {samples}")
    return 1.0 - comb(samples - right, k) / comb(samples, k)


HUMAN_EVAL = Task(
    "human_eval", "generation", questions, judge, until=("\nclass", "\ndef", "\n#", "\nif", "\nprint"),
    max_new_tokens=1024, conversation=in_conversation,
)  # fmt: skip
