"""P-values of paired differences, and their correction where many are looked at together.

An interval answers for one comparison. A table of twenty metrics at 95% holds a false alarm more often than not, so a
decision over a table goes by adjusted p-values.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Control = Literal["holm", "benjamini-hochberg"]
Alternative = Literal["two-sided", "less", "greater"]

RESAMPLES = 9_999
BATCH = 2_000_000
"""Most flipped differences held at once."""


def paired_p_value(
    scores: ArrayLike,
    baseline: ArrayLike,
    *,
    clusters: ArrayLike | None = None,
    alternative: Alternative = "two-sided",
    seed: int = 0,
) -> float:
    """How often a difference as large comes about where the two are alike: Fisher's sign-flip test.

    ``scores`` and ``baseline`` are (items,), in the same order; ``alternative`` "less" asks whether ``scores`` are
    lower. If the checkpoints are alike, each difference has either sign with equal chance. Differences of one cluster
    flip together. Exact while there are at most ``RESAMPLES`` ways to flip, sampled beyond. 1.0 where nothing differs.
    """
    gaps = np.asarray(scores, dtype=np.float64) - np.asarray(baseline, dtype=np.float64)
    if clusters is not None:
        _, member = np.unique(np.asarray(clusters), return_inverse=True)
        gaps = np.bincount(member, gaps).astype(np.float64)
    gaps = gaps[gaps != 0]  # a zero keeps its value, whichever sign it gets
    if len(gaps) == 0:
        return 1.0
    if len(gaps) == 1:  # scipy wants two observations; one can be flipped in two ways
        return 1.0 if alternative == "two-sided" or (gaps[0] < 0) != (alternative == "less") else 0.5
    found = stats.permutation_test(
        (gaps,), _sum, permutation_type="samples", vectorized=True, n_resamples=RESAMPLES,
        batch=max(1, BATCH // len(gaps)), alternative=alternative, rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(found.pvalue)


def adjusted(p_values: Sequence[float], control: Control = "holm") -> list[float]:
    """P-values that may each be held against alpha although all of them are looked at, in the given order.

    ``holm`` bounds the chance of any false alarm at all (Holm 1979); ``benjamini-hochberg`` the share of false ones
    among the alarms (Benjamini and Hochberg 1995), for independent or positively dependent comparisons.
    """
    values = np.asarray(p_values, dtype=np.float64)
    if len(values) and not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"p-values lie in [0, 1], got {values.min()} to {values.max()}")
    if len(values) == 0:
        return []
    if control == "benjamini-hochberg":
        return [float(value) for value in stats.false_discovery_control(values)]
    order = np.argsort(values)
    stepped = np.minimum(np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)), 1.0)
    result = np.empty_like(values)
    result[order] = stepped
    return [float(value) for value in result]


def _sum(gaps: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    return gaps.sum(axis=axis)
