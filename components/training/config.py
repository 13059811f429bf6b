"""The knobs of the training loop, shared by every objective. Light to import: no torch here."""

from typing import Literal

from pydantic import Field

from components.stage import StageConfig


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
