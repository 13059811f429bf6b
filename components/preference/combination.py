"""From scores by criterion to one score, and how far its confidence can be believed: pure functions of arrays.

A *margin* is the score of the better answer minus that of the worse one; sigmoid(margin) is the probability that a
Bradley-Terry model gives to the truth.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize, minimize_scalar

Array = NDArray[np.float64]


def fit_combination(margins: ArrayLike, l2: float = 1e-3) -> Array:
    """Weights >= 0 (criteria,) of a sum of scores, by maximum likelihood of the better answers' winning.

    ``margins`` (pairs, criteria). A logistic regression without intercept, since neither answer comes first, on which
    no criterion may count against an answer; ``l2`` is the penalty on squared weights, a pair.
    """
    x = np.asarray(margins, dtype=np.float64)

    def loss(weights: Array) -> tuple[float, Array]:
        z = x @ weights
        value = np.logaddexp(0.0, -z).mean() + l2 * weights @ weights
        return float(value), -x.T @ _sigmoid(-z) / len(x) + 2 * l2 * weights

    start = np.full(x.shape[1], 1.0 / x.shape[1])
    return np.asarray(minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0.0, None)] * x.shape[1]).x)


def fit_temperature(margins: ArrayLike) -> float:
    """The number that margins (pairs,) are best divided by (Guo et al. 2017, arXiv 1706.04599), in [0.01, 100].

    The truth wins with probability (n + 1) / (n + 2), as in Platt (1999): n pairs that are all in order would otherwise
    ask for certainty.
    """
    x = np.asarray(margins, dtype=np.float64)
    truth = (len(x) + 1) / (len(x) + 2)

    def loss(log_temperature: float) -> float:
        z = x * np.exp(-log_temperature)
        return float((truth * np.logaddexp(0.0, -z) + (1 - truth) * np.logaddexp(0.0, z)).mean())

    return float(np.exp(minimize_scalar(loss, bounds=np.log([0.01, 100.0]), method="bounded").x))


class Calibration(NamedTuple):
    """``error``: expected calibration error; ``bins``: mean confidence, share right and pairs of every filled bin."""

    error: float
    brier: float
    log_loss: float
    bins: list[tuple[float, float, int]]


def calibration(margins: ArrayLike, bins: int = 10) -> Calibration:
    """Of the confidence max(p, 1 - p) that an answer is the better one, in equal bins of [0.5, 1]."""
    x = np.asarray(margins, dtype=np.float64)
    confidence, right = _sigmoid(np.abs(x)), (x > 0) + 0.5 * (x == 0)
    place = np.minimum(((confidence - 0.5) * 2 * bins).astype(int), bins - 1)
    filled = [
        (float(confidence[place == b].mean()), float(right[place == b].mean()), int((place == b).sum()))
        for b in range(bins)
        if (place == b).any()
    ]
    error = sum(count * abs(sure - share) for sure, share, count in filled) / len(x)
    return Calibration(
        error, float(((1 - _sigmoid(x)) ** 2).mean()), float(np.logaddexp(0.0, -x).mean()), filled
    )  # fmt: skip


def _sigmoid(z: Array) -> Array:
    from scipy.special import expit

    return np.asarray(expit(z))
