"""A start for the first layer's attention from which copying is quickly learnt.

An induction head needs a head in an earlier layer that looks one token back (Olsson et al. 2022, arXiv 2209.11895).
From random weights that takes far more steps than a small run has. Qwen2's bias on Q and K can say it at the start:
with k = b and q = R(-1) b, where R is the rotation of RoPE, the score b . R(j - i + 1) b of a query at i and a key at
j is largest at j = i - 1, whatever the tokens are. The weights are left random, so nothing is fixed: training may
unlearn it. In the sense of mimetic initialisation (Trockman and Kolter 2023, arXiv 2305.09828).
"""

import torch

from model.rope import inverse_frequencies
from model.transformer import Attention, Transformer

FREQUENCIES = 8
"""The fastest rotations, which alone tell neighbours apart."""

STRENGTH = 4.0
"""Of each bias: 8 x 4^2 / sqrt(64) = 16 at the chosen distance, about 2 less one token beside it."""


@torch.no_grad()
def seed_previous_token_heads(model: Transformer) -> None:
    """Point the first layer's heads at the token before; in a group of several, the last one at the token before that.

    In place; needs Q and K biases, which every Qwen2.5 shape has.
    """
    attention = model.layers[0].self_attn
    assert isinstance(attention, Attention)
    head_dim, heads, groups = attention.head_dim, attention.heads, attention.key_value_heads
    count = min(FREQUENCIES, head_dim // 2)
    angles = inverse_frequencies(model.config)[:count]
    key_bias = torch.zeros(groups, head_dim)
    key_bias[:, :count] = STRENGTH
    attention.k_proj.bias.copy_(key_bias.flatten())
    query_bias = torch.zeros(heads, head_dim)
    for head in range(heads):
        place, size = head % (heads // groups), heads // groups
        distance = 2.0 if size > 1 and place == size - 1 else 1.0
        # Rotation pairs dimension d with d + head_dim / 2.
        query_bias[head, :count] = STRENGTH * torch.cos(distance * angles)
        query_bias[head, head_dim // 2 : head_dim // 2 + count] = -STRENGTH * torch.sin(distance * angles)
    attention.q_proj.bias.copy_(query_bias.flatten())
