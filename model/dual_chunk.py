"""Dual chunk attention (arXiv 2402.17463): inputs several times the trained length, no distance the model never saw.

Positions are cut into chunks of c = chunk_size - local_size. Key p is rotated by p mod c. A query at p is rotated, for
keys of its own chunk, by p mod c; of the chunk before, by min(p mod c + c, chunk_size); of earlier chunks, by
min(2c - 1, chunk_size). One softmax runs over all of them. No relative position exceeds chunk_size, the nearest
local_size tokens keep their true distance, and up to length c it is plain attention.

Shapes: B batch, N query heads, K key-value heads, G = N / K, T queries, S keys, D head_dim.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from model.config import DualChunkConfig

OWN, PREVIOUS, EARLIER = range(3)
"""How many chunks before the query's a key's chunk lies (EARLIER: two or more)."""

# Scores held at once (elements): a long prefill runs over blocks of queries.
SCORES_AT_ONCE = 32 * 1024 * 1024


@dataclass
class Chunks:
    """What attention needs to know of the positions, the same in every layer."""

    turns: tuple[tuple[Tensor, Tensor], ...]
    """cos and sin of the three query rotations, each (B, T, 1, D)."""
    query_chunk: Tensor
    """(B, T)"""
    key_chunk: Tensor
    """(B, S)"""
    scale: Tensor
    """(B, T) factor of the logits: 0.1 ln(n / original) + 1 where the query sees n > original tokens."""


def key_positions(positions: Tensor, config: DualChunkConfig) -> Tensor:
    return positions % config.chunk_length


def query_positions(positions: Tensor, config: DualChunkConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Rotations towards OWN, PREVIOUS and EARLIER chunks, each in the shape of ``positions``."""
    own = positions % config.chunk_length
    previous = (own + config.chunk_length).clamp(max=config.chunk_size)
    earlier = torch.full_like(own, min(2 * config.chunk_length - 1, config.chunk_size))
    return own, previous, earlier


def logit_scale(positions: Tensor, config: DualChunkConfig) -> Tensor:
    """By the tokens that each query sees, so that a cached decode equals a prefill of the same text."""
    if not config.original_max_position_embeddings:
        return torch.ones_like(positions, dtype=torch.float32)
    ratio = (positions + 1).float() / config.original_max_position_embeddings
    return 0.1 * ratio.clamp(min=1.0).log() + 1.0


def is_plain(longest: int, config: DualChunkConfig) -> bool:
    """Up to this many tokens the rule changes nothing."""
    original = config.original_max_position_embeddings
    return longest <= config.chunk_length and (not original or longest <= original)


def dual_chunk_attention(
    queries: tuple[Tensor, ...], key: Tensor, value: Tensor, mask: Tensor | None, chunks: Chunks
) -> Tensor:
    """Attention of queries rotated in three ways, 3 x (B, N, T, D), over keys rotated by ``key_positions`` and values,
    2 x (B, K, S, D) -> (B, N, T, D). ``mask`` (B or 1, 1, T, S) bool; None: causal, the last query sees every key."""
    tokens, seen = queries[0].shape[2], key.shape[2]
    if mask is None:
        slots = torch.arange(seen, device=key.device)
        mask = (slots <= slots[seen - tokens :, None])[None, None]
    batch, heads = queries[0].shape[:2]
    step = max(1, SCORES_AT_ONCE // (batch * heads * seen))
    blocks = [slice(start, min(start + step, tokens)) for start in range(0, tokens, step)]
    return torch.cat([_block(queries, key, value, mask, chunks, block) for block in blocks], dim=2)


def _block(
    queries: tuple[Tensor, ...], key: Tensor, value: Tensor, mask: Tensor, chunks: Chunks, block: slice
) -> Tensor:
    batch, heads, _, size = queries[0].shape
    groups, rows = key.shape[1], block.stop - block.start
    distance = (chunks.query_chunk[:, block, None] - chunks.key_chunk[:, None]).clamp(max=EARLIER)  # (B, t, S)
    scores = None
    for kind, query in enumerate(queries):
        applies = distance == kind
        if not applies.any():
            continue
        grouped = query[:, :, block].reshape(batch, groups, -1, size)  # (B, K, G t, D)
        these = (grouped @ key.transpose(2, 3)).view(batch, heads, rows, -1)
        scores = these if scores is None else torch.where(applies[:, None], these, scores)
    assert scores is not None  # every key is at some distance
    scores = scores * (chunks.scale[:, None, block, None] / size**0.5).to(scores.dtype)
    weights = scores.masked_fill(~mask[:, :, block], float("-inf")).softmax(dim=-1, dtype=torch.float32)
    output = weights.to(value.dtype).view(batch, groups, -1, key.shape[2]) @ value
    return output.view(batch, heads, rows, size)
