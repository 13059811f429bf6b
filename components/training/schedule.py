"""Learning rate as a pure function of the step."""

import math

from components.training.config import TrainingConfig


def learning_rate_at(step: int, steps: int, config: TrainingConfig) -> float:
    """Learning rate of update ``step`` (0-based) out of ``steps``.

    Linear warm-up over ``warmup_ratio`` of the steps, then: ``cosine`` to ``final_learning_rate_ratio`` of
    the peak, ``constant``, or ``wsd`` (warm-up, stable, decay: constant, then 1 - sqrt over the last
    ``decay_ratio``; Hagele et al. 2024, arXiv 2405.18392).
    """
    warmup = max(1, round(config.warmup_ratio * steps))
    peak, floor = config.learning_rate, config.learning_rate * config.final_learning_rate_ratio
    if step < warmup:
        return peak * (step + 1) / warmup
    if config.schedule == "constant":
        return peak
    if config.schedule == "cosine":
        progress = (step - warmup) / max(1, steps - 1 - warmup)
        return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    decay = max(1, round(config.decay_ratio * steps))
    progress = max(0.0, (step - (steps - 1 - decay)) / decay)
    return floor + (peak - floor) * (1 - math.sqrt(min(1.0, progress)))
