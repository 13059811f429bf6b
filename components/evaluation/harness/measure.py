"""One checkpoint on one task: an item a row, so that any two checkpoints can be compared on the same questions."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from components.evaluation.harness.subject import Advance, Subject
from components.evaluation.harness.task import (
    Form,
    Question,
    Scores,
    Task,
    choice_tokens,
    prompt_tokens,
    take_examples,
)
from components.evaluation.items import Items
from components.evaluation.significance import Alternative, adjusted, paired_p_value
from components.evaluation.small_samples import compared
from components.evaluation.statistics import Estimate, mean, proportion
from components.stage import StageError
from model.tokenizer import Tokenizer

LOWER_IS_BETTER = ("bits_per_byte",)


@dataclass(frozen=True)
class Settings:
    """How questions are asked."""

    limit: int | None = None
    """Questions of each task; all where left out."""
    shots: int = 0
    """Examples before each question: the first questions of the task, which are then not asked."""
    chat: bool = False
    """In the checkpoint's conversation template, examples as earlier turns."""
    samples: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    max_new_tokens: int | None = None
    """The task's own limit where left out."""
    seed: int = 0
    folder: Path | None = None
    """Data of the user's own, ``NAME.jsonl`` for each task."""
    lengths: tuple[int, ...] = ()
    """Tokens of context that sized tasks are made for; by default the model's own, twice and four times it."""


@dataclass
class Outcome:
    """What one task gave."""

    items: Items = field(default_factory=Items)
    answers: dict[str, Any] = field(default_factory=dict)
    """By question: the written answers, or the number of the likeliest choice."""
    truncated: int = 0
    """Prompts that lost their beginning because the context is short."""


def questions_of(task: Task, settings: Settings, tokenizer: Tokenizer | None = None) -> tuple[Form, list[Question]]:
    """The form and the questions that are asked; sized tasks need the ``tokenizer`` and ``lengths``. StageError where
    the task cannot be asked like that."""
    if task.conversations_only and not settings.chat:
        raise StageError(
            f"task {task.name} is asked in conversations only, and this checkpoint has none (or --no-chat)"
        )
    if settings.samples > 1 and settings.temperature == 0:
        raise StageError(f"{settings.samples} samples at temperature 0 are one answer many times: raise --temperature")
    if task.sized:
        assert tokenizer is not None and settings.lengths
        count = settings.limit or task.examples
        questions = [q for n in settings.lengths for q in task.sized(tokenizer, n, count, settings.folder)]
    else:
        questions = task.load(settings.folder)
    if settings.chat:
        questions = [task.conversation(question) for question in questions]
    examples, questions = take_examples(task, questions, settings.shots)
    return Form(examples, settings.chat), questions if task.sized else questions[: settings.limit]


def measure(subject: Subject, task: Task, settings: Settings, advance: Advance = lambda done: None) -> Outcome:
    """Ask the questions, judge the answers. ``advance`` is called with the number of questions done."""
    if task.sized and not settings.lengths:
        settings = replace(settings, lengths=tuple(subject.trained * times for times in (1, 2, 4)))
    form, questions = questions_of(task, settings, subject.tokenizer)
    outcome, before = Outcome(), subject.truncated
    if task.kind == "rolling":
        _predict(subject, task, questions, outcome)
        advance(len(questions))
    elif task.kind == "likelihood":
        scores = choose(subject, questions, form, outcome, advance)
        add(outcome.items, task.name, questions, scores)
    else:
        assert task.judge is not None
        written = []
        for length, part in groupby(questions, key=lambda question: question.length):
            with subject.reaching(length):
                written += subject.write(
                    [prompt_tokens(subject.tokenizer, question, form) for question in part],
                    max_new_tokens=settings.max_new_tokens or task.max_new_tokens,
                    until=task.until, temperature=settings.temperature, top_p=settings.top_p,
                    samples=settings.samples, seed=settings.seed, advance=advance,
                )  # fmt: skip
        outcome.answers = {q.id: given for q, given in zip(questions, written, strict=True)}
        add(outcome.items, task.name, questions, task.judge(questions, written))
    outcome.truncated = subject.truncated - before
    return outcome


def choose(subject: Subject, questions: Sequence[Question], form: Form, outcome: Outcome, advance: Advance) -> Scores:
    """``acc``: the likeliest choice is the right one; ``acc_norm``: per byte of its text, where lengths differ."""
    pairs = [choice_tokens(subject.tokenizer, question, form) for question in questions]
    sizes = [len(one) for one in pairs]
    done = [0, 0]

    def moved(amount: int) -> None:
        done[0] += amount
        whole = done[0] * len(questions) // max(1, sum(sizes))
        advance(whole - done[1])
        done[1] = whole

    values = iter(subject.log_likelihoods([pair for one in pairs for pair in one], moved))
    scores = []
    for question, size in zip(questions, sizes, strict=True):
        found = np.array([next(values)[0] for _ in range(size)])
        lengths = np.array([len(choice.encode("utf-8")) for choice in question.choices])
        pick = int(found.argmax())
        outcome.answers[question.id] = pick
        score = {"acc": float(pick == question.reference)}
        if len(set(lengths)) > 1:
            score["acc_norm"] = float(int((found / lengths).argmax()) == question.reference)
        scores.append(score)
    return scores


def _predict(subject: Subject, task: Task, questions: Sequence[Question], outcome: Outcome) -> None:
    totals = subject.rolling([question.prompt for question in questions])
    for question, total in zip(questions, totals, strict=True):
        size = len(question.prompt.encode("utf-8"))
        outcome.items.add(f"{task.name}.bits_per_byte", question.group, question.id, -total / np.log(2), weight=size)


def add(items: Items, task: str, questions: Sequence[Question], scores: Scores) -> None:
    """Rows ``task.metric`` of every question."""
    for question, found in zip(questions, scores, strict=True):
        for metric, score in found.items():
            items.add(f"{task}.{metric}", question.group, question.id, score)


def summary(frame: pd.DataFrame, seed: int) -> dict[str, dict[str, Any]]:
    """``{task.metric: {value, low, high, n}}``, and ``task.metric/group`` where a task has groups."""
    found: dict[str, dict[str, Any]] = {}
    for metric, rows in frame.groupby("metric", sort=True):
        found[str(metric)] = _estimate(rows, seed).as_dict()
        groups = [str(group) for group in rows["group"].unique() if group]
        if len(groups) > 1:
            for group in sorted(groups):
                found[f"{metric}/{group}"] = _estimate(rows[rows["group"] == group], seed).as_dict()
    return found


def compare(after: pd.DataFrame, before: pd.DataFrame, seed: int) -> list[dict[str, Any]]:
    """For each metric that both measured, on the items that both did: the paired difference with its interval, and the
    p-value of ``after`` being worse, as it is and Holm-adjusted for the number of metrics."""
    key = ["metric", "group", "item"]
    both = after.merge(before, on=key, suffixes=("", "_before")).sort_values(key)
    rows: list[dict[str, Any]] = []
    for metric, part in both.groupby("metric", sort=True):
        name = str(metric)
        weights = None if (part["weight"] == 1).all() else part["weight"]
        gap = compared(part["score"], part["score_before"], weights=weights, seed=seed)
        worse: Alternative = "greater" if name.rpartition(".")[2] in LOWER_IS_BETTER else "less"
        p_value = paired_p_value(part["score"], part["score_before"], alternative=worse, seed=seed)
        rows.append({"metric": name, "difference": gap.as_dict(), "worse_p": p_value})
    for row, value in zip(rows, adjusted([row["worse_p"] for row in rows]), strict=True):
        row["worse_p_holm"] = value
    return rows


def _estimate(rows: pd.DataFrame, seed: int) -> Estimate:
    if set(rows["score"].unique()) <= {0.0, 1.0} and (rows["weight"] == 1).all():
        return proportion(rows["score"], seed=seed)
    return mean(rows["score"], weights=rows["weight"], seed=seed)


__all__ = [
    "LOWER_IS_BETTER", "Outcome", "Settings", "add", "choose", "compare", "measure", "questions_of", "summary",
]  # fmt: skip
