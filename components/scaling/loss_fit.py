"""The loss law and the bootstrap: the second half of the mathematics behind ``components.scaling.law``."""

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from components.scaling.law import LossLaw

Floats = NDArray[np.float64]
Estimate = TypeVar("Estimate")

# alpha and beta of Hoffmann et al. 2022 as refitted by Besiroglu et al. 2024 (arXiv 2404.10102).
PUBLISHED_LOSS = (0.3478, 0.3658)
HUBER = 1e-3
"""Log residual beyond which the loss law counts linearly (Hoffmann et al. 2022, appendix D.3)."""


def fit_loss_law(n: Floats, d: Floats, loss: Floats, *, seed: int = 0, resamples: int = 100) -> LossLaw:
    """Chinchilla's approach 3: Huber loss of the log residuals, L-BFGS from a grid of starts.

    An exponent needs three values of its variable and one cell more than unknowns, and is published otherwise. With a
    single value of N or D its term cannot be told from E, is left out, and E absorbs it.
    """
    has_n, has_d = len(np.unique(n)) > 1, len(np.unique(d)) > 1
    cells = len(loss)
    unknowns = 1 + has_n + has_d
    free_alpha = len(np.unique(n)) > 2 and cells > unknowns
    unknowns += free_alpha
    free_beta = len(np.unique(d)) > 2 and cells > unknowns
    unknowns += free_beta
    # Centred logs: A' = A / N0^alpha and B' = B / D0^beta are of the size of the loss, whatever N and D are.
    log_n, log_d = np.log(n) - np.log(n).mean(), np.log(d) - np.log(d).mean()

    def unpack(theta: Floats) -> tuple[float, float, float, float, float]:
        rest = iter(theta[1:])
        a = next(rest) if has_n else -math.inf
        b = next(rest) if has_d else -math.inf
        alpha = next(rest) if free_alpha else PUBLISHED_LOSS[0]
        beta = next(rest) if free_beta else PUBLISHED_LOSS[1]
        return theta[0], a, alpha, b, beta

    def log_prediction(theta: Floats) -> tuple[Floats, Floats]:
        """log of the law (cells,) and its gradient (cells, unknowns)."""
        e, a, alpha, b, beta = unpack(theta)
        parts = np.stack([np.full(cells, e), a - alpha * log_n, b - beta * log_d])
        top = parts.max(axis=0)
        total = np.exp(parts - top).sum(axis=0)
        share = np.exp(parts - top) / total
        columns = [share[0]]
        columns += [share[1]] if has_n else []
        columns += [share[2]] if has_d else []
        columns += [-share[1] * log_n] if free_alpha else []
        columns += [-share[2] * log_d] if free_beta else []
        return top + np.log(total), np.column_stack(columns)

    def objective(theta: Floats, y: Floats) -> tuple[float, Floats]:
        prediction, gradient = log_prediction(theta)
        residuals = prediction - y
        inner = np.abs(residuals) <= HUBER
        value = np.where(inner, residuals**2 / 2, HUBER * (np.abs(residuals) - HUBER / 2)).sum() / HUBER**2
        slope = np.where(inner, residuals, HUBER * np.sign(residuals)) / HUBER**2
        return float(value), gradient.T @ slope

    bounds = [(-8.0, 8.0)] * (1 + has_n + has_d) + [(0.02, 2.0)] * (free_alpha + free_beta)

    def solve(y: Floats, starts: Sequence[Floats]) -> Floats:
        found = [
            minimize(objective, start, args=(y,), jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 500})
            for start in starts
        ]
        return min(found, key=lambda result: result.fun).x

    y = np.log(loss)
    middle = float(y.mean())
    grid = []
    for constant_share in (0.1, 0.5, 0.9):
        each = middle + math.log((1 - constant_share) / 2)
        for exponent in (0.15, 0.4, 0.9):
            scales, exponents = [each] * (has_n + has_d), [exponent] * (free_alpha + free_beta)
            grid.append(np.array([middle + math.log(constant_share), *scales, *exponents]))
    best = solve(y, grid)
    fitted_values = log_prediction(best)[0]
    residuals = y - fitted_values
    draws = residual_bootstrap(fitted_values, residuals, unknowns, lambda v: solve(v, [best]), seed, resamples)

    def natural(theta: Floats) -> dict[str, float]:
        e, a, alpha, b, beta = unpack(theta)
        return {
            "E": math.exp(e),
            "A": math.exp(a + alpha * np.log(n).mean()) if has_n else 0.0,
            "alpha": alpha,
            "B": math.exp(b + beta * np.log(d).mean()) if has_d else 0.0,
            "beta": beta,
        }

    values = natural(best)
    sampled = [natural(draw) for draw in draws]
    is_fitted = {"E": has_n or has_d, "A": has_n, "alpha": free_alpha, "B": has_d, "beta": free_beta}
    return LossLaw(
        irreducible=values["E"],
        parameters_scale=values["A"],
        parameters_exponent=values["alpha"],
        tokens_scale=values["B"],
        tokens_exponent=values["beta"],
        intervals={name: interval([s[name] for s in sampled], values[name]) for name in values},
        fitted=tuple(name for name, yes in is_fitted.items() if yes),
        residual=float(np.sqrt(np.mean(residuals**2))),
    )


def residual_bootstrap(
    fitted: Floats,
    residuals: Floats,
    unknowns: int,
    solve: Callable[[Floats], Estimate],
    seed: int,
    resamples: int,
) -> list[Estimate]:
    """Estimates on data made of the fit plus resampled residuals.

    Resampling cells instead would often leave a sweep of six cells under-determined.
    """
    rng = np.random.default_rng(seed)
    cells = len(fitted)
    # A fit with p unknowns shrinks its residuals by sqrt((cells - p) / cells).
    spread = (residuals - residuals.mean()) * math.sqrt(cells / max(1, cells - unknowns))
    return [solve(fitted + rng.choice(spread, cells)) for _ in range(resamples)]


def interval(draws: Sequence[float], estimate: float) -> tuple[float, float]:
    """95% percentile interval, widened to hold the estimate itself."""
    if len(draws) == 0:
        return (float(estimate), float(estimate))
    low, high = np.quantile(draws, [0.025, 0.975])
    return (float(min(low, estimate)), float(max(high, estimate)))
