"""Small model shapes that cover what the published ones differ in."""

import torch

from model.config import ModelConfig, MoEConfig
from model.transformer import Transformer

EXPERTS = MoEConfig(
    num_experts=6, num_experts_per_tok=2, moe_intermediate_size=24, shared_expert_intermediate_size=40
)  # fmt: skip


def make_config(heads: int = 4, key_values: int = 2, **changes) -> ModelConfig:
    shape = {
        "vocab_size": 200, "hidden_size": heads * 8, "intermediate_size": 72, "num_hidden_layers": 2,
        "num_attention_heads": heads, "num_key_value_heads": key_values, "max_position_embeddings": 256,
        "initializer_range": 0.15,
    }  # fmt: skip
    return ModelConfig.model_validate(shape | changes)


CONFIGS = {
    "grouped, tied": make_config(8, 2, tie_word_embeddings=True),
    "multi-head, untied": make_config(4, 4),
    "seven to one, raised base": make_config(14, 2, rope_theta=1_000_000.0),
    "experts": make_config(4, 1, moe=EXPERTS),
    "experts, normalised, tied": make_config(
        4, 2, moe=EXPERTS.model_copy(update={"norm_topk_prob": True}), tie_word_embeddings=True
    ),
    "experts, seven to one": make_config(7, 1, moe=EXPERTS),
}


def make_model(config: ModelConfig, seed: int = 0) -> Transformer:
    """Random weights; biases and norms too, which a fresh model leaves at 0 and 1."""
    model = Transformer(config).init_weights(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model
