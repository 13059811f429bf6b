"""Model shapes of a scaling study, dense or of experts, and the sizes that its laws speak of."""

import operator

from pydantic import Field

from components.scaling.sweep import SweepShape
from model.config import ModelConfig, MoEConfig


class StudyShape(SweepShape):
    """One model; the vocabulary is the tokenizer's, the head is tied."""

    moe: MoEConfig | None = Field(None, exclude_if=operator.not_, description="experts in every layer")

    def model(self, vocab_size: int, sequence_length: int) -> ModelConfig:
        return ModelConfig(
            vocab_size=vocab_size, max_position_embeddings=sequence_length, tie_word_embeddings=True,
            **self.model_dump(),
        )  # fmt: skip

    @property
    def total(self) -> int:
        """Parameters without embeddings."""
        return self.model(1, 1).num_non_embedding_parameters()

    @property
    def active(self) -> int:
        """Those that one token meets, N of the laws; all of a dense model."""
        model = self.model(1, 1)
        return model.num_active_parameters() - model.vocab_size * model.hidden_size

    @property
    def label(self) -> str:
        """Width x layers, as part of a stage's name."""
        experts = f"x{self.moe.num_experts}" if self.moe else ""
        return f"{self.hidden_size}x{self.num_hidden_layers}{experts}"


__all__ = ["StudyShape"]
