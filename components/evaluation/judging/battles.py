"""From verdicts to a win rate: two orders, a strong verdict counts three times, style taken out by regression, and
intervals by resampling questions (Arena-Hard, arXiv 2406.11939; style control, LMSYS 2024)."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from components.evaluation.judging.judges import Duel, Judge
from components.evaluation.statistics import Estimate, resampled_counts

STRONG = 3.0
"""Weight of a verdict of "significantly better"."""
STYLE = ("length", "headers", "lists", "bold")
RIDGE = 1.0
"""Of the style's coefficients: four of them from few questions would fit chance."""
RESAMPLES = 1_000

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Battles:
    """Verdicts on every question in both orders, from the side of the first checkpoint.

    ``outcomes`` (questions, 2): 1 won, 0.5 drawn, 0 lost; ``weights`` (questions, 2): 0 where nothing was said;
    ``styles`` (questions, 4): how much more of ``STYLE`` the first checkpoint's answer has, from -1 to 1.
    """

    outcomes: Array
    weights: Array
    styles: Array


def fight(
    duels: Sequence[Duel], judge: Judge, advance: Callable[[int], None] = lambda done: None
) -> tuple[Battles, list[tuple[int | None, int | None]]]:
    """Have every duel judged in both orders; also the verdicts themselves, from the first checkpoint's side."""
    verdicts = judge([*duels, *(duel.swapped() for duel in duels)], advance)
    straight, turned = verdicts[: len(duels)], verdicts[len(duels) :]
    both = [(one, None if other is None else -other) for one, other in zip(straight, turned, strict=True)]
    known = np.array([[0.0 if v is None else float(v) for v in pair] for pair in both]).reshape(-1, 2)
    heard = np.array([[v is not None for v in pair] for pair in both]).reshape(-1, 2)
    weights = np.where(np.abs(known) == 2, STRONG, 1.0) * heard
    styles = np.array([style_gap(duel.first, duel.second) for duel in duels]).reshape(-1, len(STYLE))
    return Battles((np.sign(known) + 1) / 2, weights, styles), both


def style(answer: str) -> Array:
    """Words, and Markdown's headers, list items and bold spans outside of code: (4,)."""
    plain = re.sub(r"```.*?```", "", answer, flags=re.DOTALL)
    return np.array([
        len(answer.split()), len(re.findall(r"^#{1,6}\s", plain, re.MULTILINE)),
        len(re.findall(r"^\s*(?:[-*+]|\d+\.)\s", plain, re.MULTILINE)),
        len(re.findall(r"\*\*[^*\n]+\*\*|__[^_\n]+__", plain)),
    ], dtype=np.float64)  # fmt: skip


def style_gap(first: str, second: str) -> Array:
    """(a - b) / (a + b) of each feature; 0 where neither has any."""
    a, b = style(first), style(second)
    return np.divide(a - b, a + b, out=np.zeros_like(a), where=a + b > 0)


def win_rate(battles: Battles, counts: Array | None = None) -> float:
    """Weighted share of the verdicts that are won; ``counts`` (questions,): how often each question was drawn."""
    weights = battles.weights if counts is None else battles.weights * counts[:, None]
    return float((battles.outcomes * weights).sum() / weights.sum())


def controlled(battles: Battles, counts: Array | None = None) -> tuple[float, Array]:
    """Win rate at equal style, and the standardised coefficients of ``STYLE``.

    A logistic regression of the outcomes on the differences in style: what is left when these are zero is the chance
    of winning with an answer of the same length and form.
    """
    weights = (battles.weights if counts is None else battles.weights * counts[:, None]).ravel()
    outcomes = battles.outcomes.ravel()
    spread = battles.styles.std(axis=0)
    scaled = np.divide(battles.styles, spread, out=np.zeros_like(battles.styles), where=spread > 0)
    features = np.column_stack([np.ones(len(outcomes)), np.repeat(scaled, 2, axis=0)])

    def loss(coefficients: Array) -> tuple[float, Array]:
        logits = features @ coefficients
        value = (weights * (np.logaddexp(0.0, logits) - outcomes * logits)).sum()
        gradient = features.T @ (weights * (expit(logits) - outcomes))
        penalty = RIDGE * coefficients
        penalty[0] = 0.0
        return float(value + (penalty * coefficients).sum() / 2), gradient + penalty

    found = minimize(loss, np.zeros(features.shape[1]), jac=True, method="L-BFGS-B", bounds=[(-12, 12)] * 5).x
    return float(expit(found[0])), found[1:]


def summary(battles: Battles, seed: int = 0, resamples: int = RESAMPLES) -> dict[str, Any]:
    """Win rates with and without style, each with the interval of resampled questions, and what style was worth.

    ValueError where the judge said nothing at all.
    """
    heard = battles.weights.sum(axis=1) > 0
    if not heard.any():
        raise ValueError("the judge gave no verdict on any question")
    kept = Battles(battles.outcomes[heard], battles.weights[heard], battles.styles[heard])
    n = len(kept.outcomes)
    plain, level, slopes = win_rate(kept), *controlled(kept)
    draws = np.concatenate(list(resampled_counts(n, seed, resamples)))
    rates = [win_rate(kept, counts) for counts in draws]
    levels = [controlled(kept, counts)[0] for counts in draws]
    both = (kept.weights > 0).all(axis=1)
    agreed = kept.outcomes[both, 0] == kept.outcomes[both, 1]
    return {
        "win_rate": _estimate(plain, rates, n).as_dict(),
        "win_rate_style_controlled": _estimate(level, levels, n).as_dict(),
        "style": dict(zip(STYLE, slopes.tolist(), strict=True)),
        "same_in_both_orders": float(agreed.mean()) if len(agreed) else None,
        "unread_verdicts": int((battles.weights == 0).sum()),
    }


def _estimate(value: float, draws: Sequence[float], n: int) -> Estimate:
    low, high = np.quantile(draws, [0.025, 0.975])
    return Estimate(value, float(low), float(high), n)


__all__ = ["STYLE", "Battles", "controlled", "fight", "style", "style_gap", "summary", "win_rate"]
