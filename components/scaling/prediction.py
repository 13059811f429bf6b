"""What a study's law says about a model that nobody has trained yet: value and 95% bootstrap interval of each.

A mixture of experts is as good as a dense model of ``N_active^(1 - g) N_total^g`` parameters: it computes with the
former and knows what fits into the latter. With g = 0 idle experts are worth nothing, with g = 1 as much as others. One
loss law over both kinds, ``E + A / N^alpha + B / D^beta`` in that N, is fitted together with g.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from components.scaling.fitting import PUBLISHED_BATCH, PUBLISHED_LEARNING_RATE, find_optima, fit_power_law
from components.scaling.law import LossLaw, Optimum, ScalingLaw, SweepPoint, fit_scaling_law
from components.scaling.loss_fit import fit_loss_law, interval, residual_bootstrap
from components.scaling.study import PredictConfig
from components.stage import Artifact, Inputs, Run, StageError, Summary

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Cells:
    """Optima of a study, one a (size, tokens): arrays of equal length."""

    active: Floats
    total: Floats
    tokens: Floats
    loss: Floats

    def and_(self, other: "Cells") -> "Cells":
        """Both."""
        return Cells(*(np.concatenate([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self)))

    def effective(self, exponent: float) -> Floats:
        return self.active ** (1 - exponent) * self.total**exponent


def predict(config: PredictConfig, inputs: Inputs, run: Run) -> Summary:
    """See ``components.scaling.study.predict``. Inputs ``own-*`` are sweeps of the shape's kind, ``dense-*`` others."""
    own, dense = ([inputs[name] for name in sorted(inputs) if name.startswith(kind)] for kind in ("own-", "dense-"))
    points = [point for sweep in own for point in read_points(sweep)]
    if not any(math.isfinite(point.loss) for point in points):
        raise StageError("no run of the sweep has a finite loss; lower study.learning_rates")
    law = fit_scaling_law(points, seed=run.seed, resamples=config.resamples)
    cells = _cells(law.optima, _sizes(own))
    if dense:
        optima = find_optima([p for sweep in dense for p in read_points(sweep) if math.isfinite(p.loss)])
        cells = cells.and_(_cells(optima, _sizes(dense)))
    active, total, tokens = config.shape.active, config.shape.total, config.tokens
    loss, exponent, loss_law = predict_loss(cells, active, total, tokens, seed=run.seed, resamples=config.resamples)
    # A dense model of equal active compute, by the same law.
    equal = exponent and predict_loss(cells, active, active, tokens, seed=run.seed, resamples=config.resamples)[0]
    prediction: dict[str, Any] = {
        "active_parameters": active,
        "parameters": total,
        "tokens": tokens,
        "times_largest": active / max(optimum.parameters for optimum in law.optima),
        "times_tokens": tokens / max(optimum.tokens for optimum in law.optima),
        "runs": len(points),
        "loss": loss,
        "learning_rate": _predict_power(law, "learning_rate", active, tokens, run.seed, config.resamples),
        "batch_tokens": _predict_power(law, "batch_tokens", active, tokens, run.seed, config.resamples),
        "loss_law": loss_law.model_dump(),
        "expert_exponent": exponent,
        "equal_dense_loss": equal,
        "cells": [
            {"active_parameters": a, "parameters": p, "tokens": d, "loss": loss, "law": loss_law(n, d)}
            for a, p, d, loss, n in zip(
                *(column.tolist() for column in (cells.active, cells.total, cells.tokens, cells.loss)),
                cells.effective(exponent["value"] if exponent else 0.0),
                strict=True,
            )
        ],
    }
    law.write(run.output / "law.json")
    (run.output / "prediction.json").write_text(json.dumps(prediction, indent=1) + "\n", encoding="utf-8")
    for warning in law.warnings:
        run.info(f"law: {warning}")
    run.info(
        f"predicted at {active:,} (active) parameters and {tokens:,} tokens: loss {loss['value']:.3f}, learning rate "
        f"{prediction['learning_rate']['value']:.2e}, {prediction['batch_tokens']['value']:,.0f} tokens an update"
    )
    told = ("active_parameters", "parameters", "tokens", "runs", "loss", "learning_rate", "batch_tokens")
    return {"prediction": {key: prediction[key] for key in told}, "warnings": list(law.warnings)}


def read_points(sweep: Artifact) -> list[SweepPoint]:
    """The runs of a sweep."""
    content = json.loads((sweep.path / "points.json").read_text(encoding="utf-8"))
    return [SweepPoint.model_validate(point) for point in content]


def predict_loss(
    cells: Cells, active: float, total: float, tokens: float, *, seed: int, resamples: int
) -> tuple[dict[str, float], dict[str, float] | None, LossLaw]:
    """The loss of a model, the experts' exponent g (None where all cells are dense), and the law they come from."""
    mixed = bool((cells.total != cells.active).any())

    def fitted(loss: Floats) -> tuple[float, LossLaw]:
        def law_at(exponent: float) -> LossLaw:
            return fit_loss_law(cells.effective(exponent), cells.tokens, loss, resamples=0)

        if not mixed:
            return 0.0, law_at(0.0)
        found = minimize_scalar(
            lambda g: law_at(float(g)).residual, bounds=(0.0, 1.0), method="bounded", options={"xatol": 0.01}
        )
        return float(found.x), law_at(float(found.x))

    def value(exponent: float, law: LossLaw) -> float:
        return law(active ** (1 - exponent) * total**exponent, tokens)

    exponent, law = fitted(cells.loss)
    expected = np.log([law(n, d) for n, d in zip(cells.effective(exponent), cells.tokens, strict=True)])
    residuals = np.log(cells.loss) - expected
    unknowns = min(len(cells.loss) - 1, len(law.fitted) + mixed)
    draws = residual_bootstrap(expected, residuals, unknowns, lambda y: fitted(np.exp(y)), seed, resamples)
    return (
        _spread([value(*draw) for draw in draws], value(exponent, law)),
        _spread([draw[0] for draw in draws], exponent) if mixed else None,
        law,
    )


def _predict_power(
    law: ScalingLaw, name: str, active: float, tokens: float, seed: int, resamples: int
) -> dict[str, float]:
    """The law's learning rate or batch size at (N, D)."""
    published = PUBLISHED_LEARNING_RATE if name == "learning_rate" else PUBLISHED_BATCH
    n, d = (np.array([getattr(o, key) for o in law.optima], float) for key in ("parameters", "tokens"))
    values = np.array([getattr(o, name) for o in law.optima])
    edges = np.array([getattr(o, f"{name}_at_edge") for o in law.optima])
    fit = getattr(law, name)
    expected = np.log([fit(*cell) for cell in zip(n, d, strict=True)])

    def again(y: Floats) -> float:
        return fit_power_law(n, d, np.exp(y), edges, published, resamples=0)(active, tokens)

    draws = residual_bootstrap(expected, np.log(values) - expected, 1 + len(fit.fitted), again, seed, resamples)
    return _spread(draws, fit(active, tokens))


def _spread(draws: Sequence[float], value: float) -> dict[str, float]:
    low, high = interval(draws, value)
    return {"value": float(value), "low": low, "high": high}


def _sizes(sweeps: Iterable[Artifact]) -> dict[int, int]:
    """Active -> total parameters of every shape that was swept."""
    return {int(s.summary["active_parameters"]): int(s.summary["parameters"]) for s in sweeps}


def _cells(optima: Sequence[Optimum], sizes: Mapping[int, int]) -> Cells:
    active = np.array([o.parameters for o in optima], float)
    return Cells(
        active,
        np.array([sizes[o.parameters] for o in optima], float),
        np.array([o.tokens for o in optima], float),
        np.array([o.loss for o in optima]),
    )


__all__ = ["Cells", "predict", "predict_loss", "read_points"]
