"""Scores with and without the questions that training documents held.

A recipe's stage ``decontaminate`` drops such documents and writes down which question each of them holds. Copies that
its rule has missed are likeliest of the same questions, so a score that falls without them is not to be trusted.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from components.evaluation.harness.measure import summary
from components.evaluation.harness.tasks import TASKS

SETS = {"mmlu": "mmlu", "human_eval": "humaneval"}
"""Task -> name of its questions in recipes/corpora/benchmarks.toml, whose records both number alike."""
FILE = "matches.jsonl"


def overlapping(folder: Path, tasks: Iterable[str]) -> dict[str, dict[str, int]]:
    """Of the artifact of stage ``decontaminate``: by task that it knows, question id -> documents that held it."""
    by_set: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for line in (folder / FILE).read_text(encoding="utf-8").splitlines():
        name, _, number = json.loads(line)["item"].rpartition("/")
        by_set[name][int(number)] += 1
    found = {}
    for task in tasks:
        if task in SETS:
            ids = [question.id for question in TASKS[task].load(None)] if SETS[task] in by_set else []
            found[task] = {ids[number]: count for number, count in sorted(by_set[SETS[task]].items())}
    return found


def report(items: pd.DataFrame, overlaps: Mapping[str, Mapping[str, int]], seed: int) -> dict[str, Any]:
    """By task: how many of the asked questions overlap, and every metric with its interval with and without them."""
    rows = {}
    for task, ids in overlaps.items():
        mine = items[items["metric"].str.startswith(f"{task}.")]
        asked, held = set(mine["item"]), set(mine["item"]) & set(ids)
        rows[task] = {
            "asked": len(asked), "overlapping": len(held), "documents": sum(ids[item] for item in held),
            "with": summary(mine, seed) if held else {},
            "without": summary(mine[~mine["item"].isin(held)], seed) if held and held != asked else {},
        }  # fmt: skip
    return rows


__all__ = ["overlapping", "report"]
