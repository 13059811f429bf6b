"""Estimates with 95% intervals, for one checkpoint and for the paired difference of two.

Every metric of the report card is a ratio of two sums over items: bits over bytes, correct answers over answers.
A mean is the ratio whose denominators are one. Items of one cluster (the sampled answers to one prompt) are summed
before anything is resampled, because they are not independent (Miller 2024, arXiv 2411.00640, section 2.2).
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

RESAMPLES = 2_000
CHUNK = 4_000_000
"""Most resampled weights held at once, which bounds memory at 32 MB."""


@dataclass(frozen=True)
class Estimate:
    """A value with the bounds of its 95% interval and the number of independent items behind it."""

    value: float
    low: float
    high: float
    n: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def wilson(successes: int, n: int, level: float = 0.95) -> Estimate:
    """A proportion with Wilson's score interval (1927), which stays honest at 0 of n and n of n."""
    if n == 0:
        return Estimate(float("nan"), 0.0, 1.0, 0)
    z = stats.norm.ppf(0.5 + level / 2)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At 0 and n the bound equals the share itself; rounding must not push it past.
    low = 0.0 if successes == 0 else float(centre - half)
    high = 1.0 if successes == n else float(centre + half)
    return Estimate(share, low, high, n)


def mean(
    scores: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    clusters: ArrayLike | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = 0.95,
) -> Estimate:
    """``sum(scores) / sum(weights)`` with a bootstrap interval over clusters.

    ``scores`` (items,) are the numerators, ``weights`` (items,) the denominators (bytes of a document; one where left
    out), ``clusters`` (items,) labels of items that belong together (each item alone where left out).
    """
    top, bottom = by_cluster(scores, weights, clusters)
    return _ratio(top, bottom, seed, resamples, level)


def proportion(outcomes: ArrayLike, *, clusters: ArrayLike | None = None, seed: int = 0) -> Estimate:
    """A share of yes-or-no outcomes: Wilson for independent items, cluster bootstrap otherwise.

    Where every outcome is the same, resampling sees no spread at all: the interval is then Wilson's on the number of
    clusters, as if each were a single item.
    """
    values = np.asarray(outcomes, dtype=np.float64)
    if clusters is None or len(np.unique(np.asarray(clusters))) == len(values):
        return wilson(int(values.sum()), len(values))
    if len(values) and (values == values[0]).all():
        count = len(np.unique(np.asarray(clusters)))
        return wilson(count * int(values[0]), count)
    return mean(values, clusters=clusters, seed=seed)


def paired_difference(
    scores: ArrayLike,
    baseline: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    clusters: ArrayLike | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = 0.95,
) -> Estimate:
    """``(sum(scores) - sum(baseline)) / sum(weights)`` for two checkpoints on the same items, in the same order.

    Pairing removes the spread between easy and hard items, which both checkpoints share. Where all yes-or-no outcomes
    of each side agree there is nothing to resample: the interval then joins Wilson's two (Newcombe 1998, method 10).
    """
    first, second = np.asarray(scores, dtype=np.float64), np.asarray(baseline, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"paired scores differ in shape: {first.shape} and {second.shape}")
    if weights is None and len(first) and all(_unanimous(side) for side in (first, second)):
        n = len(first) if clusters is None else len(np.unique(np.asarray(clusters)))
        return _newcombe(wilson(int(first[0]) * n, n, level), wilson(int(second[0]) * n, n, level))
    return mean(first - second, weights=weights, clusters=clusters, seed=seed, resamples=resamples, level=level)


def _unanimous(outcomes: NDArray[np.float64]) -> bool:
    """All zeros or all ones."""
    return bool((outcomes == outcomes[0]).all()) and outcomes[0] in (0.0, 1.0)


def _newcombe(first: Estimate, second: Estimate) -> Estimate:
    """Difference of two proportions from their Wilson intervals."""
    gap = first.value - second.value
    below = np.hypot(first.value - first.low, second.high - second.value)
    above = np.hypot(first.high - first.value, second.value - second.low)
    return Estimate(gap, float(gap - below), float(gap + above), first.n)


def by_cluster(
    scores: ArrayLike, weights: ArrayLike | None, clusters: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Numerators and denominators summed by cluster, both (clusters,)."""
    top = np.asarray(scores, dtype=np.float64)
    bottom = np.ones_like(top) if weights is None else np.asarray(weights, dtype=np.float64)
    if clusters is None:
        return top, bottom
    _, member = np.unique(np.asarray(clusters), return_inverse=True)
    return np.bincount(member, top).astype(np.float64), np.bincount(member, bottom).astype(np.float64)


def _ratio(top: NDArray[np.float64], bottom: NDArray[np.float64], seed: int, resamples: int, level: float) -> Estimate:
    n = len(top)
    if n == 0 or bottom.sum() == 0:
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    value = float(top.sum() / bottom.sum())
    if n == 1:
        return Estimate(value, value, value, 1)
    replicates = []
    for counts in resampled_counts(n, seed, resamples):
        totals = counts @ bottom
        replicates.append((counts @ top)[totals > 0] / totals[totals > 0])
    tail = expanded_tail(n, level)
    low, high = np.quantile(np.concatenate(replicates), [tail, 1 - tail])
    return Estimate(value, float(low), float(high), n)


def resampled_counts(n: int, seed: int, resamples: int) -> Iterator[NDArray[np.float64]]:
    """How often each of ``n`` items appears in each resample: chunks of (resamples, n).

    Drawing n items with replacement is drawing these counts.
    """
    rng = np.random.default_rng(seed)
    rows = max(1, CHUNK // n)
    for begin in range(0, resamples, rows):
        yield rng.multinomial(n, np.full(n, 1 / n), size=min(rows, resamples - begin)).astype(np.float64)


def expanded_tail(n: int, level: float) -> float:
    """Share of the resamples that lies below the interval.

    Percentile intervals are too narrow in small samples by sqrt((n - 1) / n) and by using z for t; the expanded
    percentile widens the levels to make up for both (Hesterberg 2015, arXiv 1411.5279, section 5.1).
    """
    return float(stats.norm.cdf(np.sqrt(n / (n - 1)) * stats.t.ppf((1 - level) / 2, n - 1)))


def paired_difference_over_seeds(scores: ArrayLike, baseline: ArrayLike, weights: ArrayLike) -> Estimate:
    """``(sum(scores) - sum(baseline)) / sum(weights)``, mean over training seeds, for other seeds and other items.

    ``scores`` and ``baseline`` are (seeds, items), a row for each pair of trainings that share a seed; ``weights``
    (items,) are the denominators. The squared half-width is the sum of that between items (of the ratio, linearised,
    seeds averaged) and that between seeds. What items and seeds
    have in common is counted twice, so the interval is wider than 95% asks rather than narrower.
    """
    gaps = np.asarray(scores, dtype=np.float64) - np.asarray(baseline, dtype=np.float64)
    bottom = np.asarray(weights, dtype=np.float64)
    seeds, items = gaps.shape
    total = bottom.sum()
    by_seed = gaps.sum(axis=1) / total
    value = float(by_seed.mean())
    if seeds < 2 or items < 2:
        return Estimate(value, float("-inf"), float("inf"), items)
    residuals = gaps.mean(axis=0) - value * bottom
    between_items = items / (items - 1) * float((residuals**2).sum()) / total**2
    between_seeds = float(by_seed.var(ddof=1)) / seeds
    # Each source with the t quantile of its own degrees of freedom (Howe 1974): three seeds say little of their spread.
    widths = [stats.t.ppf(0.975, n - 1) ** 2 * v for n, v in ((items, between_items), (seeds, between_seeds))]
    half = float(np.sqrt(sum(widths)))
    return Estimate(value, value - half, value + half, items)
