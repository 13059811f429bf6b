"""Intervals for shares: every stage reports what it measured together with how sure it is."""

from math import sqrt
from typing import Any

Z95 = 1.959963984540054
"""Two-sided 95% quantile of the normal distribution."""


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """95% Wilson score interval of a binomial share (Wilson 1927); ``(0, 1)`` without trials."""
    if trials == 0:
        return 0.0, 1.0
    share = successes / trials
    scale = 1 + Z95**2 / trials
    centre = (share + Z95**2 / (2 * trials)) / scale
    half = Z95 * sqrt(share * (1 - share) / trials + Z95**2 / (4 * trials**2)) / scale
    return max(0.0, centre - half), min(1.0, centre + half)


def share_above(successes: int, trials: int, baseline: float) -> dict[str, Any]:
    """``value``, ``baseline``, ``low`` and ``high`` for an effect: a measured share against a constant."""
    low, high = wilson(successes, trials)
    return {
        "value": successes / max(1, trials), "baseline": baseline, "low": low - baseline, "high": high - baseline,
    }  # fmt: skip
