"""Before and after post-training: the checkpoint that a recipe starts from against each one made from it."""

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from components.evaluation.items import compare, estimate
from components.stage import Artifact

TRAINED = {"evaluate-sft": "sft", "evaluate-dpo": "dpo", "evaluate-rl": "rl"}
METRICS = {
    "verified_greedy": "verified answers, greedy",
    "verified_sampled": "verified answers, sampled",
    "format_greedy": "format followed, greedy",
    "stopped_greedy": "answers that end by themselves",
    "factory_greedy": "answers that pass the factories' checks, greedy",
    "ifeval.prompt_strict": "IFEval prompts followed, strict",
    "reasoning.acc": "reasoning-gym questions answered",
    "human_eval": "HumanEval problems solved, greedy",
}
BY_DOMAIN = "verified_greedy"
BY_FACTORY = "factory_greedy"
NOTE = (
    "Paired differences on the same held-out prompts. This run has no pre-training data, so neither bits per byte nor "
    "pass keys were measured."
)


def before_after(items: Mapping[str, pd.DataFrame], inputs: Mapping[str, Artifact], seed: int) -> dict[str, Any]:
    """``{note, checkpoints, rows}``: a row has ``title``, ``before`` and for each checkpoint ``{value, difference, low,
    high}`` or None. Empty where the run did not start from a checkpoint, or nothing was measured."""
    trained = {name: items[stage] for stage, name in TRAINED.items() if stage in items}
    if "evaluate-start" not in items:
        return {}
    rows = list(_rows(items["evaluate-start"], trained, _domains(inputs), seed))
    return {"note": NOTE, "checkpoints": list(trained), "rows": rows}


def _rows(
    start: pd.DataFrame, trained: Mapping[str, pd.DataFrame], domains: Mapping[str, list[str]], seed: int
) -> Iterator[dict[str, Any]]:
    """The metrics over all prompts, then verified answers by domain and accepted ones by factory."""
    parts: list[tuple[str, str, list[str] | None]] = [(metric, title, None) for metric, title in METRICS.items()]
    parts += [(BY_DOMAIN, f"{METRICS[BY_DOMAIN]}: {domain}", tasks) for domain, tasks in domains.items()]
    factories = start[start["metric"] == BY_FACTORY]["group"].drop_duplicates()
    parts += [(BY_FACTORY, f"{METRICS[BY_FACTORY]}: {name.replace('_', ' ')}", [name]) for name in factories]
    for metric, title, tasks in parts:
        before = _part(start, metric, tasks)
        if before.empty:
            continue
        cells: dict[str, dict[str, float] | None] = {}
        for name, frame in trained.items():
            after = _part(frame, metric, tasks)
            gap = compare(after, before, metric, seed=seed)
            if gap is None:
                cells[name] = None
                continue
            # a start that hardly ever ends its answers is sampled once only: both sides are taken over the same items
            value = estimate(metric, after[after["item"].isin(before["item"])], seed).value
            cells[name] = {"value": value, "difference": gap.value, "low": gap.low, "high": gap.high}
        yield {"title": title, "before": estimate(metric, before, seed).value, "cells": cells}


def _part(frame: pd.DataFrame, metric: str, tasks: list[str] | None) -> pd.DataFrame:
    rows = frame[frame["metric"] == metric]
    return rows if tasks is None else rows[rows["group"].isin(tasks)]


def _domains(inputs: Mapping[str, Artifact]) -> dict[str, list[str]]:
    """Task families by domain, where there is more than one domain."""
    found: dict[str, list[str]] = {}
    families = inputs["conversations"].summary.get("families", {}) if "conversations" in inputs else {}
    for family, domain in families.items():
        found.setdefault(domain, []).append(family)
    return found if len(found) > 1 else {}
