"""What became of a prediction: the larger model trained as predicted, and a small direct sweep around it."""

import json
import math
from typing import Any

from components.scaling.law import SweepPoint
from components.scaling.study import HeldOutConfig
from components.scaling.study_runs import Runs, next_value
from components.stage import Inputs, Run, StageError, Summary, effect

LOSS_WITHIN = 0.03
"""Of the loss that comes out: what a predicted loss may be off."""
OPTIMUM_WITHIN = 0.01
"""Of the best loss that the direct sweep finds: what the predicted rate and batch may miss."""
FACTOR = 2.0
"""Between neighbours of the direct sweep."""
MOST_BEYOND = 2


def hold_out(config: HeldOutConfig, inputs: Inputs, run: Run) -> Summary:
    """See ``components.scaling.study.hold_out``."""
    prediction = json.loads((inputs["law"].path / "prediction.json").read_text(encoding="utf-8"))
    rate, window = prediction["learning_rate"]["value"], config.sequence_length
    batch = window * max(1, round(prediction["batch_tokens"]["value"] / window))
    batches = [round(batch * f) for f in (1 / FACTOR, FACTOR) if round(batch * f) >= window]
    default = config.default_learning_rate, config.default_batch_tokens
    around = [*((rate * f, batch) for f in (1 / FACTOR, FACTOR)), *((rate, size) for size in batches)]
    runs = Runs(config, config.shape, inputs["shards"], run)
    # Whatever does best counts as the optimum, the default values included.
    swept = runs.of([(rate, batch), *around, default], [config.tokens], "held-out")
    predicted, untuned = swept[0], swept[-1]
    if not math.isfinite(predicted.loss):
        raise StageError(f"training with the predicted learning rate {rate:.2e} diverged; widen study.learning_rates")
    for _ in range(MOST_BEYOND):
        best = _best(swept)
        rates = sorted({point.learning_rate for point in swept if point.batch_tokens == best.batch_tokens})
        if (further := next_value(rates, best.learning_rate)) is None:
            break
        swept += runs.of([(further, best.batch_tokens)], [config.tokens], "held-out_beyond")
    best = _best(swept)
    outcome: dict[str, Any] = {
        "prediction": prediction,
        "loss": predicted.loss,
        "learning_rate": predicted.learning_rate,
        "batch_tokens": predicted.batch_tokens,
        "best": best.model_dump(),
        "default": untuned.model_dump(),
        "points": [point.model_dump() for point in swept],
        "loss_error": prediction["loss"]["value"] / predicted.loss - 1,
        "gap_to_best": predicted.loss / best.loss - 1,
    }
    (run.output / "outcome.json").write_text(json.dumps(outcome, indent=1) + "\n", encoding="utf-8")
    return {
        "outcome": {key: outcome[key] for key in ("loss", "loss_error", "gap_to_best")},
        "runs": len(swept),
        "tokens": sum(point.tokens for point in swept),
        "flops": runs.flops(swept),
        "effects": [
            effect("held-out loss, predicted rate and batch against the default ones", predicted.loss,
                   min(untuned.loss, 1e9), unit="nats a token", better="lower",
                   note=f"baseline: rate {default[0]:g}, batch {default[1]}"),
            effect("held-out loss, as it came out and as predicted", predicted.loss, prediction["loss"]["value"],
                   unit="nats a token", better="lower"),
        ],
    }  # fmt: skip


def _best(points: list[SweepPoint]) -> SweepPoint:
    return min(points, key=lambda point: point.loss)


__all__ = ["LOSS_WITHIN", "OPTIMUM_WITHIN", "hold_out"]
