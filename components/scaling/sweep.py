"""Stage ``scaling``: many small runs over (N, D, learning rate, batch size), and the laws that fit them.

Report, section 3.2: "hyper-parameter scaling laws" of dense models are found on small runs and set the learning
rate and the batch size of the large one. Each run of the sweep is a whole training with its own schedule, since the
best rate of a run that has not decayed says little. Where the best rate is the last of the grid the grid grows, for an
optimum at the edge is only a bound; the law is then put to the test at a larger budget, and fitted again with what the
test has measured.
"""

from typing import Literal

from pydantic import Field

from components.stage import Inputs, Run, StageConfig, Summary, effect
from components.training.config import TrainingConfig


class SweepShape(StageConfig):
    """One model size of the sweep; the vocabulary is the tokenizer's, the head is tied."""

    hidden_size: int = Field(ge=8)
    intermediate_size: int = Field(ge=8)
    num_hidden_layers: int = Field(ge=1)
    num_attention_heads: int = Field(ge=1)
    num_key_value_heads: int = Field(ge=1)


def _shape(hidden_size: int, layers: int, heads: int) -> SweepShape:
    return SweepShape(
        hidden_size=hidden_size, intermediate_size=3 * hidden_size, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=1,
    )  # fmt: skip


class ScalingConfig(TrainingConfig):
    """The grid. Every combination is run, plus some that check the fitted law at a larger budget."""

    schedule: Literal["cosine", "constant", "wsd"] = "wsd"
    shapes: tuple[SweepShape, ...] = (_shape(64, 2, 1), _shape(96, 3, 2))
    tokens: tuple[int, ...] = Field((16_384, 49_152), description="training tokens D of a run")
    learning_rates: tuple[float, ...] = (2e-3, 6e-3, 1.8e-2)
    batch_tokens: tuple[int, ...] = (512, 1024, 2048)
    sequence_length: int = Field(256, ge=8)
    check_tokens: int = Field(
        131_072, ge=1, description="D of the runs that check the law, beyond the grid; largest shape"
    )
    default_learning_rate: float = Field(3e-4, gt=0, description="what one would take without a law")
    default_batch_tokens: int = Field(4096, ge=8, description="what one would take without a law")


CHECK_FACTORS = (1 / 3, 3.0)
"""Rates beside the predicted one at the check's budget: they show whether it was the best there, by a parabola."""


def sweep(config: ScalingConfig, inputs: Inputs, run: Run) -> Summary:
    """Run the grid, fit the laws into ``law.json``; effect: predicted against default hyper-parameters."""
    from components.scaling.law import fit_scaling_law
    from components.scaling.trials import Trials

    trials = Trials(config, inputs["shards"], run)
    grid = [
        trials.make(shape, tokens, rate, batch)
        # The longest first, so that no worker is left with one at the end.
        for tokens in sorted(config.tokens, reverse=True)
        for shape in reversed(config.shapes)
        for rate in config.learning_rates
        for batch in config.batch_tokens
    ]
    points = trials.widen(trials.run(grid, "sweep"), "sweep_beyond")
    law = fit_scaling_law(points, seed=run.seed)

    largest, size, tokens = config.shapes[-1], grid[0].size, config.check_tokens
    predicted_rate, predicted_batch = law.predict_learning_rate(size, tokens), law.predict_batch_tokens(size, tokens)
    predicted_loss = law.predict_loss(size, tokens)
    tuned, untuned, *around = trials.run(
        [
            trials.make(largest, tokens, predicted_rate, round(predicted_batch)),
            trials.make(largest, tokens, config.default_learning_rate, config.default_batch_tokens),
            *(trials.make(largest, tokens, predicted_rate * f, round(predicted_batch)) for f in CHECK_FACTORS),
        ],
        "check",
    )
    checked = trials.widen([tuned, *around], "check_beyond")
    law = fit_scaling_law(points + checked, seed=run.seed)
    law.write(run.output / "law.json")
    best = min(checked, key=lambda point: point.loss)
    for warning in law.warnings:
        run.info(f"scaling: {warning}")
    return {
        "runs": len(points) + len(checked) + 1,
        "tokens": sum(point.tokens for point in [*points, *checked, untuned]),
        "warnings": list(law.warnings),
        "check": {
            "parameters": size,
            "tokens": tokens,
            "learning_rate": predicted_rate,
            "batch_tokens": predicted_batch,
            "predicted_loss": predicted_loss,
            "loss": tuned.loss,
            "best_learning_rate": best.learning_rate,
            "best_loss": best.loss,
            "default_loss": untuned.loss,
        },
        "effects": [
            effect("held-out loss, predicted rate and batch", tuned.loss, untuned.loss, unit="nats a token",
                   better="lower", note=f"baseline: rate {config.default_learning_rate:g}, batch "
                   f"{config.default_batch_tokens} at the same {tokens:,} tokens, {tokens / max(config.tokens):.1f}x "
                   "the largest budget of the sweep"),
            effect("error of the predicted loss", abs(predicted_loss / tuned.loss - 1),
                   abs(sum(p.loss for p in points) / len(points) / tuned.loss - 1), better="lower",
                   note="baseline: the sweep's mean loss as the guess"),
        ],
    }  # fmt: skip
