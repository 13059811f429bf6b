"""The headline claims of a run: what each stage must show over its baseline, with the paired interval that decides."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import pandas as pd

from components.evaluation.claim import Claim, Verdict
from components.evaluation.items import compare, estimate
from components.stage import Artifact

MASTERED = 0.9
"""Pass-key share from which a length counts as mastered, as the report's 100% does at full scale."""
FORMAT_BEFORE, FORMAT_AFTER = 0.1, 0.8
"""SFT must lift format following from under the one to over the other."""


Items = Mapping[str, pd.DataFrame]
"""Items of the evaluations that ran, by stage id."""


def claims(items: Items, inputs: Mapping[str, Artifact], seed: int) -> list[dict[str, Any]]:
    """All claims, those whose stages did not run included; of a run that started from a checkpoint, its own."""
    if "start" in inputs:
        return [asdict(row) for row in _after_start(items, seed)]
    length = _extended_length(items, inputs)
    rows = [
        _claim(
            items, seed, "Pre-training beats an order-5 n-gram model (held-out bits per byte)",
            "evaluate-base", "ngram", "bits_per_byte", unit="bits/byte",
            rule="the interval of the difference lies below 0", holds=lambda value, before, gap: gap.high < 0,
        ),
        _claim(
            items, seed, f"Context extension masters pass keys at {length:,} tokens",
            "evaluate-long", "evaluate-base", "passkey", group=str(length),
            rule=f"at least {MASTERED:.0%} found, and the interval lies above 0",
            holds=lambda value, before, gap: value >= MASTERED and gap.low > 0,
        ),
        _claim(
            items, seed, "SFT teaches the demanded formats (greedy answers)",
            "evaluate-sft", "evaluate-long", "format_greedy",
            rule=f"from under {FORMAT_BEFORE:.0%} to over {FORMAT_AFTER:.0%}",
            holds=lambda value, before, gap: before < FORMAT_BEFORE and value > FORMAT_AFTER,
        ),
        *(
            _claim(
                items, seed, f"{after} lifts the verified pass rate over {before} (sampled answers)",
                f"evaluate-{stage}", f"evaluate-{previous}", "verified_sampled",
                rule="the interval of the difference lies above 0", holds=lambda value, before, gap: gap.low > 0,
            )
            for after, before, stage, previous in (("DPO", "SFT", "dpo", "sft"), ("GRPO", "DPO", "rl", "dpo"))
        ),
    ]  # fmt: skip
    return [asdict(row) for row in rows]


STEPS = {"evaluate-sft": "SFT", "evaluate-dpo": "DPO", "evaluate-rl": "GRPO"}


def _after_start(items: Items, seed: int) -> Iterator[Claim]:
    """What each step of post-training must show over the one before."""
    before, name = "evaluate-start", "the checkpoint that it started from"
    for after, step in STEPS.items():
        if after in items:
            yield _claim(
                items, seed, f"{step} lifts the verified pass rate over {name} (sampled answers)",
                after, before, "verified_sampled",
                rule="the interval of the difference lies above 0", holds=lambda value, before, gap: gap.low > 0,
            )  # fmt: skip
            before, name = after, step


def _claim(
    items: Items, seed: int, claim: str, after: str, before: str, metric: str, *, rule: str,
    holds: Callable[[float, float, Any], bool], group: str | None = None, unit: str = "share",
) -> Claim:  # fmt: skip
    if after not in items or before not in items:
        missing = [stage for stage in (after, before) if stage not in items]
        return Claim(claim, "not run", unit, rule=f"{rule} (needs {' and '.join(missing)})")
    gap = compare(items[after], items[before], metric, group, seed)
    if gap is None:
        return Claim(claim, "not run", unit, rule=f"{rule} (no common items of {metric})")
    value, baseline = (_value(items[stage], metric, group, seed) for stage in (after, before))
    verdict: Verdict = "holds" if holds(value, baseline, gap) else "does not hold"
    return Claim(claim, verdict, unit, value, baseline, gap.value, gap.low, gap.high, gap.n, rule)


def _value(frame: pd.DataFrame, metric: str, group: str | None, seed: int) -> float:
    rows = frame[(frame["metric"] == metric) & ((frame["group"] == group) if group else True)]
    return estimate(metric, rows, seed).value


def _extended_length(items: Items, inputs: Mapping[str, Artifact]) -> int:
    """Four times the context of the first phase where that was measured, otherwise the longest that was."""
    measured = sorted(
        {int(group) for frame in items.values() for group in frame.loc[frame["metric"] == "passkey", "group"]}
    )
    first = 0
    if "pretrain" in inputs:
        config = json.loads((inputs["pretrain"].path / "config.json").read_text(encoding="utf-8"))
        first = int(config.get("max_position_embeddings", 0))
    goal = 4 * first
    return goal if goal in measured or not measured else measured[-1]
