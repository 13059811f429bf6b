"""Memory that training takes on one rank, by formula: what has to fit before anything is tried.

With P parameters, A of them active, N ranks (ZeRO: arXiv 1910.02054, table 1):

=================  ==========  =========  ================  ==================================================
engine             parameters  gradients  optimizer          note
=================  ==========  =========  ================  ==================================================
torch (float32)    4 P         4 P        8 P                two Adam moments, every rank holds all
deepspeed ZeRO 0   2 P         2 P        12 P               bfloat16 weights; float32 master copy and moments
deepspeed ZeRO 1   2 P         2 P        12 P / N
deepspeed ZeRO 2   2 P         2 P / N    12 P / N
deepspeed ZeRO 3   2 P / N     2 P / N    12 P / N
=================  ==========  =========  ================  ==================================================

Activations kept for the backward pass, elements a token and layer: norm inputs and outputs 4 H, queries and
attention output 2 H, keys and values 2 K, and of the SwiGLU gate, up, activated gate and product 4 F (F: active
width). Attention keeps no score matrix (fused kernels) and the loss no full logits (it is computed in chunks). With
checkpointing only the H elements of each layer's input stay, and one layer at a time is recomputed.
"""

from dataclasses import dataclass

from model.config import ModelConfig

ENGINES = ("torch", "zero0", "zero1", "zero2", "zero3")


@dataclass(frozen=True)
class Memory:
    """Bytes on one rank."""

    parameters: float
    gradients: float
    optimizer: float
    activations: float

    @property
    def total(self) -> float:
        return self.parameters + self.gradients + self.optimizer + self.activations


def training_memory(model: ModelConfig, *, engine: str, ranks: int, tokens: int, recompute: bool = False) -> Memory:
    """Memory of one rank of ``ranks`` that holds ``tokens`` tokens of activations at a time."""
    size = model.num_parameters()
    if engine == "torch":
        return Memory(4.0 * size, 4.0 * size, 8.0 * size, _activations(model, tokens, 4, recompute))
    zero = int(engine.removeprefix("zero"))
    return Memory(
        parameters=2.0 * size / (ranks if zero >= 3 else 1),
        gradients=2.0 * size / (ranks if zero >= 2 else 1),
        optimizer=12.0 * size / (ranks if zero >= 1 else 1),
        activations=_activations(model, tokens, 2, recompute),
    )


def _activations(model: ModelConfig, tokens: int, bytes_per_element: int, recompute: bool) -> float:
    key_value = model.num_key_value_heads * model.head_dim
    layer = 6 * model.hidden_size + 2 * key_value + 4 * active_width(model)
    layers = model.num_hidden_layers
    per_token = layers * model.hidden_size + layer if recompute else layers * layer
    return float(tokens * per_token * bytes_per_element)


def active_width(model: ModelConfig) -> int:
    """Feed-forward width that one token meets."""
    if model.moe is None:
        return model.intermediate_size
    moe = model.moe
    return moe.num_experts_per_tok * moe.moe_intermediate_size + moe.shared_expert_intermediate_size


__all__ = ["ENGINES", "Memory", "active_width", "training_memory"]
