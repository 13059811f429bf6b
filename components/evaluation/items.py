"""Outcomes item by item: kept so that any two evaluations can be compared on the same items."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from components.evaluation.statistics import Estimate, mean, paired_difference, proportion

FILE = "items.parquet"
SHARES = ("verified", "format", "passkey", "stopped", "human_eval", "factory", "reasoning.acc", "ifeval.prompt")
"""Metrics (by the start of their names) whose scores are 0 or 1."""


@dataclass
class Items:
    """Rows of ``items.parquet``.

    ``metric`` what was measured; ``group`` its part (domain, task family, context length); ``item`` what on, equal in
    every evaluation; ``score`` and ``weight``, so that the metric is sum(score) / sum(weight); ``cluster`` the items
    that are not independent (samples of one prompt).
    """

    rows: list[tuple[str, str, str, float, float, str]] = field(default_factory=list)

    def add(
        self, metric: str, group: str, item: str, score: float, *, weight: float = 1.0, cluster: str | None = None
    ) -> None:
        self.rows.append((metric, group, item, float(score), float(weight), cluster or item))

    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(self.rows, columns=["metric", "group", "item", "score", "weight", "cluster"])

    def write(self, folder: Path) -> None:
        self.frame().to_parquet(folder / FILE, index=False)

    def metrics(self, seed: int) -> dict[str, dict[str, Any]]:
        """``{name: {value, low, high, n}}`` of every metric and of every ``metric/group``, by name."""
        found = {}
        frame = self.frame()
        for metric, rows in frame.groupby("metric", sort=True):
            found[str(metric)] = estimate(str(metric), rows, seed).as_dict()
            for group, part in rows.groupby("group", sort=True):
                found[f"{metric}/{group}"] = estimate(str(metric), part, seed).as_dict()
        return found


def estimate(metric: str, rows: pd.DataFrame, seed: int) -> Estimate:
    """The metric over some of its items, with its interval."""
    if metric.startswith(SHARES):
        return proportion(rows["score"], clusters=rows["cluster"], seed=seed)
    return mean(rows["score"], weights=rows["weight"], clusters=rows["cluster"], seed=seed)


def read_items(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / FILE)


def compare(
    after: pd.DataFrame, before: pd.DataFrame, metrics: str | Sequence[str], group: str | None = None, seed: int = 0
) -> Estimate | None:
    """Paired difference ``after - before`` of a metric on the items that both measured; None where there are none.

    Several names in ``metrics`` are pooled; their items of one cluster stay together.
    """
    names = [metrics] if isinstance(metrics, str) else list(metrics)
    key = ["metric", "group", "item"]
    parts = []
    for frame in (after, before):
        rows = frame[frame["metric"].isin(names)]
        parts.append(rows if group is None else rows[rows["group"] == group])
    both = parts[0].merge(parts[1], on=key, suffixes=("", "_before"))
    if len(both) and not np.allclose(both["weight"], both["weight_before"]):
        raise ValueError(f"{', '.join(names)}: the two evaluations measured different text under the same item names")
    both = both.sort_values(key)
    if both.empty:
        return None
    weights = None if (both["weight"] == 1).all() else both["weight"]
    return paired_difference(both["score"], both["score_before"], weights=weights, clusters=both["cluster"], seed=seed)
