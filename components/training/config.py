"""The knobs of the training loop, shared by every objective. Light to import: no torch here."""

from typing import Literal

from pydantic import Field

from components.stage import StageConfig


class WatchConfig(StageConfig):
    """What to do when training goes wrong: ``skip`` the batch, ``rollback`` to the last checkpoint and leave out the
    batches since, ``lower`` the learning rate (and skip the batch), ``stop`` the stage, or only ``warn``.

    The spans and thresholds are this project's; skipping the span of a spike is PaLM's remedy (arXiv 2204.02311, 5.1).
    """

    not_finite: Literal["skip", "rollback", "lower", "stop"] = Field("stop", description="loss or gradient norm")
    spike: Literal["ignore", "warn", "skip", "rollback", "lower", "stop"] = Field("warn", description="of the loss")
    spike_deviations: float = Field(12.0, gt=0, description="median absolute deviations (scaled) above the median")
    spike_least: float = Field(0.5, ge=0, description="least rise above the median, nats or the objective's own unit")
    spike_window: int = Field(64, ge=8, description="steps that median and deviation are taken over")
    flat: Literal["ignore", "warn", "stop"] = Field("warn", description="a loss that has stopped moving at all")
    flat_window: int = Field(200, ge=8, description="steps over which the loss must move")
    flat_range: float = Field(1e-5, gt=0, description="least (highest - lowest) / |mean| over flat_window")
    router: Literal["ignore", "warn", "stop"] = Field("warn", description="one expert takes most of the tokens")
    router_share: float = Field(
        0.5, gt=0, le=1, description="most of all tokens that a layer may send to the same expert, mean over layers"
    )
    lower_factor: float = Field(0.5, gt=0, lt=1, description="lower: what the rate is multiplied by, for good")
    most_incidents: int = Field(20, ge=1, description="skips, rollbacks and lowerings after which the stage stops")


class TrainingConfig(StageConfig):
    """AdamW or Muon with decoupled decay, a warm-up and a decaying schedule; defaults are the report's for SFT."""

    optimizer: Literal["adamw", "muon"] = Field("adamw", description="muon: on hidden matrices, AdamW on the rest")
    learning_rate: float = Field(7e-6, gt=0, description="peak learning rate")
    final_learning_rate_ratio: float = Field(0.1, ge=0, le=1, description="last learning rate / peak")
    warmup_ratio: float = Field(0.02, ge=0, le=1, description="share of the steps with a linear warm-up")
    schedule: Literal["cosine", "constant", "wsd"] = "cosine"
    decay_ratio: float = Field(0.2, gt=0, le=1, description="wsd: share of the steps in the final decay")
    weight_decay: float = Field(0.1, ge=0)
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.95, ge=0, lt=1)
    epsilon: float = Field(1e-8, gt=0)
    max_grad_norm: float = Field(1.0, gt=0)
    checkpoint_every: int = Field(100, ge=1, description="steps between resumable checkpoints")
    log_every: int = Field(10, ge=1, description="steps averaged into one point of the history")
    keep_last: int = Field(2, ge=1, description="newest checkpoints that are kept while the stage runs")
    keep_every: int = Field(0, ge=0, description="also keep those of every so many steps; 0: none")
    keep_best: bool = Field(False, description="also keep the one with the lowest training loss")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of weights and activations in forward and backward; master weights are float32"
    )
    recompute: bool = Field(False, description="keep only the layers' inputs for the backward pass")
    compile: bool = Field(False, description="torch.compile on every layer")
    watch: WatchConfig = WatchConfig()
