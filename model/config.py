"""What a model is made of: shapes, parameter counts and FLOPs, as pure arithmetic (this module needs no torch).

Field names are those of ``transformers``' ``Qwen2Config`` and ``Qwen2MoeConfig``, so that ``config.json`` is
written and read (``model.hf_config``) without a translation table. Figures of the published sizes: Qwen2.5 report
(arXiv 2412.15115), table 1.
"""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class ModelFormatError(ValueError):
    """A model folder, its config or one of its tensors is not what it says it is."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RopeScaling(_Frozen):
    """YaRN length extrapolation (arXiv 2309.00071): NTK-by-parts frequencies and an attention temperature."""

    factor: float = Field(gt=1.0, description="served length / trained length")
    original_max_position_embeddings: int = Field(gt=0, description="trained length")
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = Field(default=None, description="None: 0.1 ln(factor) + 1")


class DualChunkConfig(_Frozen):
    """Dual chunk attention (arXiv 2402.17463) as published 1M-token checkpoints carry it."""

    chunk_size: int = Field(gt=0)
    local_size: int = Field(ge=0)
    original_max_position_embeddings: int = Field(
        0, ge=0, description="longer inputs get sharper logits, 0.1 ln(n / original) + 1; 0: never"
    )

    @model_validator(mode="after")
    def _local_inside_chunk(self) -> Self:
        if self.local_size >= self.chunk_size:
            raise ValueError(f"local_size {self.local_size} must be below chunk_size {self.chunk_size}")
        return self

    @property
    def chunk_length(self) -> int:
        """Tokens a chunk, ``chunk_size - local_size``: the period of key positions."""
        return self.chunk_size - self.local_size


class MoEConfig(_Frozen):
    """Fine-grained routed experts and one gated shared expert, in every layer."""

    num_experts: int = Field(gt=0)
    num_experts_per_tok: int = Field(gt=0)
    moe_intermediate_size: int = Field(gt=0)
    shared_expert_intermediate_size: int = Field(gt=0)
    norm_topk_prob: bool = Field(default=False, description="rescale the chosen experts' probabilities to sum to 1")
    router_aux_loss_coef: float = Field(default=0.001, ge=0.0)
    router_z_loss_coef: float = Field(default=0.001, ge=0.0)

    @model_validator(mode="after")
    def _top_k_fits(self) -> Self:
        if self.num_experts_per_tok > self.num_experts:
            raise ValueError(f"num_experts_per_tok {self.num_experts_per_tok} exceeds num_experts {self.num_experts}")
        return self


class ModelConfig(_Frozen):
    """One decoder-only Transformer: GQA, QKV bias, RMSNorm, SwiGLU or MoE, RoPE."""

    vocab_size: int = Field(gt=0)
    hidden_size: int = Field(gt=0)
    intermediate_size: int = Field(gt=0)
    num_hidden_layers: int = Field(gt=0)
    num_attention_heads: int = Field(gt=0)
    num_key_value_heads: int = Field(gt=0)
    max_position_embeddings: int = Field(default=32768, gt=0)
    rope_theta: float = Field(default=10000.0, gt=0.0)
    rms_norm_eps: float = Field(default=1e-6, gt=0.0)
    tie_word_embeddings: bool = False
    initializer_range: float = Field(default=0.02, gt=0.0)
    attention_bias: Literal[True] = Field(default=True, description="Qwen2 has a bias on Q, K and V, always")
    rope_scaling: RopeScaling | None = None
    dual_chunk_attention: DualChunkConfig | None = None
    moe: MoEConfig | None = None

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of num_key_value_heads "
                f"{self.num_key_value_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} must be even: rotary embeddings turn pairs")
        return self

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def context_length(self) -> int:
        """Tokens that a text may have, prompt and answer together."""
        scaling = self.rope_scaling
        stretched = 0 if scaling is None else int(scaling.factor * scaling.original_max_position_embeddings)
        return max(self.max_position_embeddings, stretched)

    # ---- parameters -------------------------------------------------------------------------------------

    def num_parameters(self) -> int:
        """Every weight once: a tied output matrix is not counted again."""
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)
        return embeddings + self.num_non_embedding_parameters()

    def num_non_embedding_parameters(self) -> int:
        """All but the input and output embedding matrices."""
        return self._layers_and_norm(self._feed_forward_parameters())

    def num_active_parameters(self) -> int:
        """Weights that one token meets: all of a dense model, the routed top-k of an MoE."""
        idle = self.num_hidden_layers * self._idle_expert_parameters()
        return self.num_parameters() - idle

    def _layers_and_norm(self, feed_forward: int) -> int:
        hidden, key_value = self.hidden_size, self.num_key_value_heads * self.head_dim
        attention = 2 * hidden * hidden + 2 * hidden * key_value + (hidden + 2 * key_value)
        return self.num_hidden_layers * (attention + feed_forward + 2 * hidden) + hidden

    def _feed_forward_parameters(self) -> int:
        if self.moe is None:
            return 3 * self.hidden_size * self.intermediate_size
        experts = self.moe.num_experts * 3 * self.hidden_size * self.moe.moe_intermediate_size
        shared = 3 * self.hidden_size * self.moe.shared_expert_intermediate_size + self.hidden_size
        return self.hidden_size * self.moe.num_experts + experts + shared

    def _idle_expert_parameters(self) -> int:
        if self.moe is None:
            return 0
        idle = self.moe.num_experts - self.moe.num_experts_per_tok
        return idle * 3 * self.hidden_size * self.moe.moe_intermediate_size

    # ---- FLOPs ------------------------------------------------------------------------------------------

    def forward_flops_per_token(self, sequence_length: int) -> float:
        """Multiply and add count as two; causal attention sees half of ``sequence_length`` on average."""
        matrices = self.num_active_parameters()
        if not self.tie_word_embeddings:  # the input embedding is a look-up, the output one a product
            matrices -= self.vocab_size * self.hidden_size
        attention = self.num_hidden_layers * 2 * self.hidden_size * (sequence_length / 2)
        return 2.0 * (matrices + attention)

    def training_flops_per_token(self, sequence_length: int) -> float:
        """Backward costs twice the forward pass."""
        return 3.0 * self.forward_flops_per_token(sequence_length)


def _published(
    layers: int, hidden: int, heads: int, key_values: int, feed_forward: int, *, tied: bool, rows: int
) -> ModelConfig:
    return ModelConfig(
        vocab_size=rows, hidden_size=hidden, intermediate_size=feed_forward, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=key_values, tie_word_embeddings=tied,
        max_position_embeddings=32768 if tied else 131072, rope_theta=1_000_000.0,
    )  # fmt: skip


PUBLISHED: dict[str, ModelConfig] = {
    "0.5b": _published(24, 896, 14, 2, 4864, tied=True, rows=151936),
    "1.5b": _published(28, 1536, 12, 2, 8960, tied=True, rows=151936),
    "3b": _published(36, 2048, 16, 2, 11008, tied=True, rows=151936),
    "7b": _published(28, 3584, 28, 4, 18944, tied=False, rows=152064),
    "14b": _published(48, 5120, 40, 8, 13824, tied=False, rows=152064),
    "32b": _published(64, 5120, 40, 8, 27648, tied=False, rows=152064),
    "72b": _published(80, 8192, 64, 8, 29568, tied=False, rows=152064),
}
"""Every dense shape of the report, at its final context length."""
