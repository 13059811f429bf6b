"""The report's own figures beside those of a run, where both have measured the same thing."""

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

FILE = Path(__file__).with_name("published.toml")
TITLES = {
    "mmlu": "MMLU", "mmlu-pro": "MMLU-Pro", "bbh": "BBH", "gsm8k": "GSM8K", "math": "MATH", "human_eval": "HumanEval",
    "mbpp": "MBPP", "ifeval": "IFEval, strict prompt", "arena_hard": "Arena-Hard", "passkey": "pass keys",
}  # fmt: skip
Kind = Literal["base", "instruct"]


def figures(kind: Kind, size: str) -> dict[str, float]:
    """Percent by benchmark; {} for a size that the report does not list."""
    return dict(_tables()[kind].get(size, {}))


def nearest_size(parameters: float) -> str:
    """The published size that is closest to a number of parameters, by ratio."""

    def ratio(size: str) -> float:
        published = float(size.removesuffix("B")) * 1e9
        return max(parameters / published, published / parameters)

    return min(_tables()["base"], key=ratio)


def beside(evaluations: Mapping[str, Mapping[str, Any]], parameters: float) -> dict[str, Any]:
    """For a report card: the nearest published size, and a row for each benchmark that a checkpoint was measured on.

    ``evaluations`` are those of the card, ``{checkpoint: {metric: {value, low, high, n}}}``; a row has the published
    shares of base and instruct model and the cells of the checkpoints.
    """
    size = nearest_size(parameters)
    base, instruct = figures("base", size), figures("instruct", size)
    rows = []
    absent = dict.fromkeys(evaluations)  # every checkpoint has a cell, an n-gram model an empty one
    for name in TITLES:
        measured = {who: metrics[name] for who, metrics in evaluations.items() if name in metrics}
        if not measured or name == "passkey":
            continue
        rows.append(_row(TITLES[name], base.get(name), instruct.get(name), {**absent, **measured}))
    longest = {who: found for who, metrics in evaluations.items() if (found := _longest_passkey(metrics))}
    if longest:
        length = max(length for length, _ in longest.values())
        cells = {**absent, **{who: cell for who, (of, cell) in longest.items() if of == length}}
        title = f"pass keys at {length:,} tokens (Turbo: 1,000,000)"
        rows.append(_row(title, None, _tables()["turbo"]["passkey"], cells))
    return {"size": size, "rows": rows}


def _row(title: str, base: float | None, instruct: float | None, cells: Mapping[str, Any]) -> dict[str, Any]:
    shares = {"base": base, "instruct": instruct}
    return {"title": title, "cells": dict(cells)} | {
        kind: None if value is None else value / 100 for kind, value in shares.items()
    }


def _longest_passkey(metrics: Mapping[str, Any]) -> tuple[int, Any] | None:
    lengths = [int(name.partition("/")[2]) for name in metrics if name.startswith("passkey/")]
    return (max(lengths), metrics[f"passkey/{max(lengths)}"]) if lengths else None


@cache
def _tables() -> dict[str, Any]:
    return tomllib.loads(FILE.read_text(encoding="utf-8"))


__all__ = ["TITLES", "beside", "figures", "nearest_size"]
