"""The mathematics behind ``components.scaling.law``: parabolas in log space, robust regressions, bootstrap."""

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from components.scaling.law import Optimum, PowerLaw, ScalingLaw, SweepPoint
from components.scaling.loss_fit import fit_loss_law, interval, residual_bootstrap

Floats = NDArray[np.float64]

# Exponents of (N, D) in Li et al. 2025 (arXiv 2503.04715): lr = 1.79 N^-0.713 D^0.307, batch = 0.58 D^0.571.
PUBLISHED_LEARNING_RATE = (-0.713, 0.307)
PUBLISHED_BATCH = (0.0, 0.571)
PRIOR_SPREAD = 0.3
"""Standard deviation of the normal prior of a fitted exponent around its published value. Two standard deviations span
more than the published laws disagree by; a sweep over a decade with 10% noise outweighs it tenfold."""
NOISE_FLOOR = 0.05
"""Least log error assumed of an optimum that a parabola gave: its three points have errors of their own."""


def fit(points: Sequence[SweepPoint], *, seed: int, resamples: int) -> ScalingLaw:
    """See ``components.scaling.law.fit_scaling_law``."""
    usable = [point for point in points if math.isfinite(point.loss)]
    if not usable:
        raise ValueError("the sweep holds no run with a finite loss: nothing to fit")
    warnings: list[str] = []
    if len(usable) < len(points):
        warnings.append(f"{len(points) - len(usable)} runs diverged and were left out")
    optima = find_optima(usable)
    n, d = np.array([o.parameters for o in optima], float), np.array([o.tokens for o in optima], float)
    laws = []
    for name, values, edges, published in (
        (
            "learning rate",
            [o.learning_rate for o in optima],
            [o.learning_rate_at_edge for o in optima],
            PUBLISHED_LEARNING_RATE,
        ),
        (
            "batch size",
            [o.batch_tokens for o in optima],
            [o.batch_tokens_at_edge for o in optima],
            PUBLISHED_BATCH,
        ),
    ):
        if any(edges):
            warnings.append(f"{name}: {sum(edges)} of {len(edges)} optima lie at the edge of the swept range")
        law = fit_power_law(n, d, np.array(values), np.array(edges), published, seed=seed, resamples=resamples)
        held = [e for e in ("parameters", "tokens") if e not in law.fitted]
        if held:
            warnings.append(f"{name}: exponents of {' and '.join(held)} are published values, not fitted")
        laws.append(law)
    loss = fit_loss_law(n, d, np.array([o.loss for o in optima]), seed=seed, resamples=resamples)
    open_values = [v for v in ("E", "A", "alpha", "B", "beta") if v not in loss.fitted]
    if open_values:
        warnings.append(f"loss: {len(optima)} cells do not determine {', '.join(open_values)}")
    return ScalingLaw(
        learning_rate=laws[0],
        batch_tokens=laws[1],
        loss=loss,
        points=tuple(usable),
        optima=tuple(optima),
        warnings=tuple(warnings),
    )


def find_optima(points: Sequence[SweepPoint]) -> list[Optimum]:
    """The best learning rate and batch size of every (N, D) cell, in order of N, then D.

    For each batch size a parabola of the loss in log learning rate gives its best learning rate; a parabola of those
    best losses in log batch size gives the best batch size, and log learning rate is interpolated there.
    """
    cells: dict[tuple[int, int], dict[int, list[SweepPoint]]] = defaultdict(lambda: defaultdict(list))
    for point in points:
        cells[point.parameters, point.tokens][point.batch_tokens].append(point)
    optima = []
    for (parameters, tokens), by_batch in sorted(cells.items()):
        rows = []  # log batch, log best learning rate, its loss, at edge
        for batch, runs in sorted(by_batch.items()):
            rate, loss, edge = _minimum([math.log(r.learning_rate) for r in runs], [r.loss for r in runs])
            rows.append((math.log(batch), rate, loss, edge))
        log_batch = [row[0] for row in rows]
        best_batch, loss, batch_edge = _minimum(log_batch, [row[2] for row in rows])
        nearest = min(rows, key=lambda row: abs(row[0] - best_batch))
        optima.append(
            Optimum(
                parameters=parameters,
                tokens=tokens,
                learning_rate=math.exp(float(np.interp(best_batch, log_batch, [row[1] for row in rows]))),
                batch_tokens=math.exp(best_batch),
                loss=loss,
                learning_rate_at_edge=nearest[3],
                batch_tokens_at_edge=batch_edge,
            )
        )
    return optima


def _minimum(x: Sequence[float], loss: Sequence[float]) -> tuple[float, float, bool]:
    """Where loss(x) is least, its value there, and whether that is an end of the range (a bound, no optimum).

    A parabola through the best point and its two neighbours: further away a loss curve is steeper than one.
    """
    order = np.argsort(x, kind="stable")
    # Repeated runs at one x are averaged.
    places, member = np.unique(np.asarray(x)[order], return_inverse=True)
    values = np.bincount(member, np.asarray(loss)[order]) / np.bincount(member)
    best = int(np.argmin(values))
    if len(places) < 3 or best in (0, len(places) - 1):
        return float(places[best]), float(values[best]), True
    near = slice(best - 1, best + 2)
    curvature, slope, level = np.polyfit(places[near] - places[best], values[near], 2)
    shift = -slope / (2 * curvature)  # within the neighbours, because the middle value is the least of three
    return float(places[best] + shift), float(level - slope**2 / (4 * curvature)), False


def fit_power_law(
    n: Floats,
    d: Floats,
    values: Floats,
    at_edge: NDArray[np.bool_],
    published: tuple[float, float],
    *,
    seed: int = 0,
    resamples: int = 100,
) -> PowerLaw:
    """Robust log-linear regression of ``values`` (cells,) on N and D, exponents shrunk towards ``published``.

    An exponent is fitted where at least two of its values and one cell more than unknowns are there; cells at the edge
    of the swept range count a quarter. It is held at the published value otherwise.
    """
    # A bound says little about the optimum, but as long as real optima are few it is better than nothing.
    weights = np.where(at_edge, 0.25, 1.0)
    inside = int((~at_edge).sum())
    free = [len(np.unique(n)) > 1 and inside >= 3, len(np.unique(d)) > 1 and inside >= 3]
    design = np.column_stack([np.log(n) - np.log(n).mean(), np.log(d) - np.log(d).mean()])
    target = np.log(values)
    start = np.array([target.mean(), *published])
    prior = np.array(published)

    def solve(y: Floats) -> Floats:
        return _huber_regression(design, y, weights, prior, np.array(free), start)

    estimate = solve(target)
    fitted_values = estimate[0] + design @ estimate[1:]
    residuals = target - fitted_values
    draws = residual_bootstrap(fitted_values, residuals, 1 + sum(free), solve, seed, resamples)
    constant = estimate[0] - estimate[1] * np.log(n).mean() - estimate[2] * np.log(d).mean()
    intervals = [interval([draw[i] for draw in draws], estimate[i]) for i in (1, 2)]
    names = ("parameters", "tokens")
    return PowerLaw(
        constant=float(constant),
        exponent_parameters=float(estimate[1]),
        exponent_tokens=float(estimate[2]),
        exponent_parameters_interval=intervals[0],
        exponent_tokens_interval=intervals[1],
        fitted=tuple(name for name, is_free in zip(names, free, strict=True) if is_free),
        residual=float(np.sqrt(np.mean(residuals**2))),
    )


def _huber_regression(
    design: Floats, y: Floats, weights: Floats, prior: Floats, free: NDArray[np.bool_], start: Floats
) -> Floats:
    """Intercept and slopes by reweighted least squares: Huber's weights, a normal prior on slopes."""
    names = np.concatenate([[True], free])
    matrix = np.column_stack([np.ones(len(y)), design])
    beta = start.copy()
    for _ in range(50):
        residuals = y - matrix @ beta
        scale = max(NOISE_FLOOR, 1.4826 * float(np.median(np.abs(residuals))))
        robust = weights * np.minimum(1.0, 1.345 * scale / np.maximum(np.abs(residuals), 1e-12)) / scale**2
        inner = matrix[:, names]
        precision = np.diag(np.concatenate([[0.0], np.full(int(free.sum()), PRIOR_SPREAD**-2)]))
        pull = np.concatenate([[0.0], prior[free] / PRIOR_SPREAD**2])
        remaining = y - matrix[:, ~names] @ beta[~names]
        updated = np.linalg.solve(
            inner.T @ (robust[:, None] * inner) + precision, inner.T @ (robust * remaining) + pull
        )
        moved = float(np.abs(updated - beta[names]).max())
        beta[names] = updated
        if moved < 1e-10:
            break
    return beta
