"""Intervals of paired differences that hold where the percentiles of a bootstrap do not: few items, or mostly ties.

Of two checkpoints that answer 20 questions and differ on one in 25, resampling sees next to nothing: its interval held
the truth in 45% of such comparisons, and that of skewed rewards of 12 prompts in 92% (``qwenforge bench coverage``).
Right and wrong answers get Tango's score interval (95% and more there), other scores the studentised bootstrap (94%).
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

from components.evaluation.statistics import (
    RESAMPLES,
    Estimate,
    by_cluster,
    paired_difference,
    resampled_counts,
)


def compared(
    scores: ArrayLike, baseline: ArrayLike, *, weights: ArrayLike | None = None, clusters: ArrayLike | None = None,
    seed: int = 0, resamples: int = RESAMPLES, level: float = 0.95,
) -> Estimate:  # fmt: skip
    """``(sum(scores) - sum(baseline)) / sum(weights)`` with the interval that suits the scores.

    Arguments as in ``paired_difference``, whose value it has. Yes-or-no outcomes of single items: ``tango``. Scores
    whose differences are mostly distinct: ``studentised``. Else (several graded answers, most of them alike) the
    percentiles of ``paired_difference``.
    """
    first, second = np.asarray(scores, dtype=np.float64), np.asarray(baseline, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"paired scores differ in shape: {first.shape} and {second.shape}")
    if len(first) and weights is None and clusters is None and all(_yes_or_no(side) for side in (first, second)):
        return tango(int(((first == 1) & (second == 0)).sum()), int(((first == 0) & (second == 1)).sum()), len(first),
                     level)  # fmt: skip
    top, bottom = by_cluster(first - second, weights, clusters)
    if len(top) > 2 and 2 * len(np.unique(top / bottom)) > len(top):
        return studentised(top, bottom, seed=seed, resamples=resamples, level=level)
    return paired_difference(
        first, second, weights=weights, clusters=clusters, seed=seed, resamples=resamples, level=level
    )


@lru_cache(maxsize=4096)
def tango(gained: int, lost: int, n: int, level: float = 0.95) -> Estimate:
    """Difference of two paired proportions with Tango's score interval (1998, Statistics in Medicine 17, 891-908).

    ``gained`` of ``n`` pairs are right on the first side alone, ``lost`` on the second alone. The interval holds every
    difference that a score test would not reject, so it has a width where no pair differs: z² / (n + z²) on each side.
    """
    if not 0 <= gained + lost <= n or min(gained, lost) < 0 or n < 1:
        raise ValueError(f"{gained} gained and {lost} lost of {n} pairs")
    z = float(stats.norm.ppf(0.5 + level / 2))
    value = (gained - lost) / n

    def beyond(bound: float, sign: float) -> float:
        """Score statistic less z: zero at the limit."""
        # Likeliest share of pairs lost if the difference were ``bound``.
        linear = -gained - lost + (2 * n - gained + lost) * bound
        root = math.sqrt(max(0.0, linear**2 + 8 * n * lost * bound * (1 - bound)))
        share = max(0.0, (root - linear) / (4 * n))
        variance = n * (2 * share + bound * (1 - bound))
        gap = sign * (gained - lost - n * bound)
        return math.inf if variance <= 0 and gap > 0 else gap / math.sqrt(max(variance, 1e-300)) - z

    edge = 1e-12
    low = -1.0 if lost == n else float(optimize.brentq(beyond, -1 + edge, value, args=(1.0,)))
    high = 1.0 if gained == n else float(optimize.brentq(beyond, value, 1 - edge, args=(-1.0,)))
    return Estimate(value, low, high, n)


def studentised(
    top: NDArray[np.float64], bottom: NDArray[np.float64], *, seed: int = 0, resamples: int = RESAMPLES,
    level: float = 0.95,
) -> Estimate:  # fmt: skip
    """``sum(top) / sum(bottom)`` over independent clusters with the bootstrap-t interval (Efron and Tibshirani 1993,
    section 12.5).

    What is resampled is the ratio's distance from its estimate in units of its own standard error (linearised), whose
    spread hardly depends on the unknown truth. ``top`` and ``bottom`` are (clusters,).
    """
    n = len(top)
    value, error = (float(part[0]) for part in _ratio(np.ones((1, n)), top, bottom))
    pivots = []
    for counts in resampled_counts(n, seed, resamples):
        ratios, errors = _ratio(counts, top, bottom)
        seen = errors > 0  # a resample of one cluster alone says nothing of its spread
        pivots.append((ratios[seen] - value) / errors[seen])
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(pivots), [tail, 1 - tail])
    return Estimate(value, value - float(high) * error, value - float(low) * error, n)


def _ratio(
    counts: NDArray[np.float64], top: NDArray[np.float64], bottom: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Ratios of resamples with their standard errors; ``counts`` are (resamples, clusters)."""
    n, total = len(top), counts @ bottom
    ratios = counts @ top / total
    squares = counts @ top**2 - 2 * ratios * (counts @ (top * bottom)) + ratios**2 * (counts @ bottom**2)
    return ratios, np.sqrt(np.maximum(squares, 0.0) * n / (n - 1)) / total


def _yes_or_no(side: NDArray[np.float64]) -> bool:
    return bool(np.isin(side, (0.0, 1.0)).all())


__all__ = ["compared", "studentised", "tango"]
