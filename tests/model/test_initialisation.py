"""Heads that look back from the start, measured on the attention itself."""

import pytest
import torch

from model.config import ModelConfig
from model.initialisation import seed_previous_token_heads
from model.rope import attention_factor, inverse_frequencies, rotate, rotation
from model.transformer import Transformer


@pytest.mark.parametrize(("heads", "groups"), [(2, 1), (4, 4), (4, 2)])
def test_first_layer_looks_one_token_back(heads, groups):
    config = ModelConfig(
        vocab_size=64, hidden_size=64 * heads, intermediate_size=64, num_hidden_layers=2, num_attention_heads=heads,
        num_key_value_heads=groups, max_position_embeddings=128, tie_word_embeddings=True,
    )  # fmt: skip
    model = Transformer(config).init_weights(0)
    seed_previous_token_heads(model)
    attention = model.layers[0].self_attn
    tokens = 100
    x = model.layers[0].input_layernorm(model.model.embed_tokens(torch.arange(tokens)[None] % 64))
    cos, sin = rotation(torch.arange(tokens)[None], inverse_frequencies(config), attention_factor(config))
    turn = cos[:, :, None], sin[:, :, None]
    query = rotate(attention.q_proj(x).view(1, tokens, heads, 64), *turn)
    key = rotate(attention.k_proj(x).view(1, tokens, groups, 64), *turn).repeat_interleave(heads // groups, dim=2)
    scores = torch.einsum("btnd,bsnd->bnts", query, key)[0] / 8
    scores = scores.masked_fill(torch.ones(tokens, tokens).triu(1).bool(), float("-inf"))
    looked_at = torch.arange(tokens) - scores.argmax(-1)
    for head in range(heads):
        size = heads // groups
        distance = 2 if size > 1 and head % size == size - 1 else 1
        assert (looked_at[head, 2:] == distance).float().mean() > 0.95
