"""Scaling laws as data: what a sweep measured, what was fitted to it, and what it predicts for a run.

``fit_scaling_law`` turns sweep points into three laws of model size N (non-embedding parameters) and training tokens D:

* optimal learning rate and optimal batch size, ``exp(c) N^a D^b`` (Qwen2.5 report, section 3.2; the form and the
  published exponents are those of Li et al. 2025, arXiv 2503.04715);
* loss, ``E + A / N^alpha + B / D^beta`` (Hoffmann et al. 2022, arXiv 2203.15556, approach 3).

A small sweep cannot determine all of that. Whatever it leaves open is held at the published value and said so in
``warnings``; nothing is guessed silently.
"""

import math
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")  # a loss may be infinite


class SweepPoint(_Frozen):
    """One training run of a sweep."""

    parameters: int = Field(
        gt=0, description="model size N: non-embedding parameters, the same meaning as in predict_*"
    )
    tokens: int = Field(gt=0, description="training tokens D")
    learning_rate: float = Field(gt=0)
    batch_tokens: int = Field(gt=0, description="tokens of one update")
    loss: float = Field(gt=0, description="final held-out loss, nats a token")


class Optimum(_Frozen):
    """The best hyper-parameters of one (N, D) cell of the sweep, from parabolas in log space."""

    parameters: int
    tokens: int
    learning_rate: float
    batch_tokens: float
    loss: float = Field(description="loss at the optimum")
    learning_rate_at_edge: bool = Field(description="the optimum lies at the end of the swept range: a bound only")
    batch_tokens_at_edge: bool


class PowerLaw(_Frozen):
    """``value = exp(constant) * N^exponent_parameters * D^exponent_tokens``, with 95% bootstrap intervals."""

    constant: float
    exponent_parameters: float
    exponent_tokens: float
    exponent_parameters_interval: tuple[float, float]
    exponent_tokens_interval: tuple[float, float]
    fitted: tuple[str, ...] = Field(description="exponents that the sweep determined; the others are published values")
    residual: float = Field(description="root mean square of the log residuals: 0.1 is about 10%")

    def __call__(self, parameters: float, tokens: float) -> float:
        return math.exp(
            self.constant + self.exponent_parameters * math.log(parameters) + self.exponent_tokens * math.log(tokens)
        )


class LossLaw(_Frozen):
    """``loss = E + A / N^alpha + B / D^beta`` in nats a token, with 95% bootstrap intervals."""

    irreducible: float = Field(description="E")
    parameters_scale: float = Field(description="A")
    parameters_exponent: float = Field(description="alpha")
    tokens_scale: float = Field(description="B")
    tokens_exponent: float = Field(description="beta")
    intervals: dict[str, tuple[float, float]] = {}
    fitted: tuple[str, ...] = Field((), description="names of the values that the sweep determined")
    residual: float = Field(0.0, description="root mean square of the log residuals")

    def __call__(self, parameters: float, tokens: float) -> float:
        return (
            self.irreducible
            + self.parameters_scale * parameters**-self.parameters_exponent
            + self.tokens_scale * tokens**-self.tokens_exponent
        )


class ScalingLaw(_Frozen):
    """What the sweep says about a run of any size; saved as ``law.json`` of the scaling-law artifact."""

    learning_rate: PowerLaw
    batch_tokens: PowerLaw
    loss: LossLaw
    points: tuple[SweepPoint, ...] = Field(description="the runs that did not diverge")
    optima: tuple[Optimum, ...]
    warnings: tuple[str, ...] = ()

    def predict_learning_rate(self, parameters: float, tokens: float) -> float:
        """Optimal peak learning rate."""
        return self.learning_rate(parameters, tokens)

    def predict_batch_tokens(self, parameters: float, tokens: float) -> float:
        """Optimal tokens of one update."""
        return self.batch_tokens(parameters, tokens)

    def predict_loss(self, parameters: float, tokens: float) -> float:
        """Final held-out loss at the optimal hyper-parameters, nats a token."""
        return self.loss(parameters, tokens)

    def extrapolation(self, parameters: float, tokens: float) -> tuple[float, float]:
        """How far (N, D) lies outside the sweep, as factors; (1.0, 1.0) is inside."""

        def factor(value: float, seen: list[int]) -> float:
            return max(1.0, value / max(seen), min(seen) / value)

        return (
            factor(parameters, [o.parameters for o in self.optima]),
            factor(tokens, [o.tokens for o in self.optima]),
        )

    def write(self, file: Path) -> None:
        file.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, file: Path) -> "ScalingLaw":
        return cls.model_validate_json(file.read_text(encoding="utf-8"))


def fit_scaling_law(points: list[SweepPoint], *, seed: int = 0, resamples: int = 100) -> ScalingLaw:
    """Fit all three laws. A run that diverged has loss ``inf``; ValueError where no loss is finite.

    The interval of every value comes from ``resamples`` bootstrap fits (about 5 ms each).
    """
    from components.scaling.fitting import fit

    return fit(points, seed=seed, resamples=resamples)
