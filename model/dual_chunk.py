"""Dual chunk attention (arXiv 2402.17463): inputs several times the trained length, no distance the model never saw.

Positions are cut into chunks of c = chunk_size - local_size. Key p is rotated by p mod c. A query at p is rotated, for
keys of its own chunk, by p mod c; of the chunk before, by min(p mod c + c, chunk_size); of earlier chunks, by
min(2c - 1, chunk_size). One softmax runs over all of them. No relative position exceeds chunk_size, the nearest
local_size tokens keep their true distance, and up to length c it is plain attention.

Shapes: B batch, N query heads, K key-value heads, G = N / K, T queries, S keys, D head_dim.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from model.config import DualChunkConfig
from model.partial_attention import Run, attend_part, merge_parts

Attend = Callable[[int, tuple[Tensor, ...], Tensor, Tensor, int, int], Tensor]
"""Layer, queries 3 x (N, T, D), keys, values 2 x (K, S, D), position of the first query, chunk length -> (N, T, D)."""

NO_CHUNKS = 2**62
"""The chunk length of plain attention: every key is of the query's own chunk."""

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
    chunk_length: int = 0
    runs: list[Run] | None = None
    """The texts of a prefill, where their positions follow each other: no mask is needed then."""
    attend: "Attend | None" = None
    """How each of the runs is read; None: all of it."""


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


def one_chunk(turn: tuple[Tensor, Tensor], positions: Tensor, runs: list[Run] | None, attend: Attend) -> Chunks:
    """Plain attention, read by ``attend``."""
    none = positions.new_zeros(1, 1)
    scale = torch.ones_like(positions, dtype=torch.float32)
    return Chunks((turn,), none, none, scale, chunk_length=NO_CHUNKS, runs=runs, attend=attend)


def dual_chunk_attention(
    queries: tuple[Tensor, ...], key: Tensor, value: Tensor, mask: Tensor | None, chunks: Chunks, layer: int = 0
) -> Tensor:
    """Attention of queries rotated in three ways, 3 x (B, N, T, D), over keys rotated by ``key_positions`` and values,
    2 x (B, K, S, D) -> (B, N, T, D). ``mask`` (B or 1, 1, T, S) bool; None: causal, the last query sees every key.
    Where ``chunks`` knows the runs they say what sees what, and a token in none of them (padding) gets zeros."""
    if chunks.runs is not None:
        return _over_runs(queries, key, value, chunks, layer)
    tokens, seen = queries[0].shape[2], key.shape[2]
    if mask is None:
        slots = torch.arange(seen, device=key.device)
        mask = (slots <= slots[seen - tokens :, None])[None, None]
    batch, heads = queries[0].shape[:2]
    step = max(1, SCORES_AT_ONCE // (batch * heads * seen))
    blocks = [slice(start, min(start + step, tokens)) for start in range(0, tokens, step)]
    return torch.cat([_block(queries, key, value, mask, chunks, block) for block in blocks], dim=2)


class Part(NamedTuple):
    """Keys that some queries of one chunk meet at one kind of distance."""

    kind: int
    keys: slice
    causal: bool = False
    """As many keys as queries, query i sees the first i + 1; else all see all."""


def parts(first: int, end: int, chunk_length: int) -> list[Part]:
    """What the queries at positions ``first`` to ``end`` - 1, all of one chunk, see: keys by their positions."""
    start = first // chunk_length * chunk_length
    before = max(start - chunk_length, 0)
    ranges = [(EARLIER, 0, before), (PREVIOUS, before, start), (OWN, start, first)]
    return [Part(kind, slice(a, b)) for kind, a, b in ranges if a < b] + [Part(OWN, slice(first, end), causal=True)]


def pieces(first: int, end: int, chunk_length: int) -> Iterator[tuple[int, int]]:
    """Positions ``first`` to ``end`` - 1, cut where chunks end."""
    while first < end:
        cut = min((first // chunk_length + 1) * chunk_length, end)
        yield first, cut
        first = cut


def attend_run(
    queries: tuple[Tensor, ...], key: Tensor, value: Tensor, position: int, chunk_length: int
) -> tuple[Tensor, Tensor]:
    """One text, queries that begin at ``position``: 3 x (N, T, D) over 2 x (K, S, D), S = position + T, keys by their
    position -> output (N, T, D) and log-sum-exp of the logits (N, T)."""
    done = []
    for first, end in pieces(position, key.shape[1], chunk_length):
        rows = slice(first - position, end - position)
        done.append(
            merge_parts(
                [
                    attend_part(queries[kind][:, rows], key[:, keys], value[:, keys], causal=causal)
                    for kind, keys, causal in parts(first, end, chunk_length)
                ]
            )
        )
    return torch.cat([output for output, _ in done], dim=1), torch.cat([log for _, log in done], dim=1)


def _over_runs(queries: tuple[Tensor, ...], key: Tensor, value: Tensor, chunks: Chunks, layer: int) -> Tensor:
    assert chunks.runs is not None
    attend = chunks.attend or _all_keys
    output = torch.zeros_like(queries[OWN])
    for run in chunks.runs:
        scale = chunks.scale[run.row if chunks.scale.shape[0] > 1 else 0, run.queries, None].to(key.dtype)  # (t, 1)
        own = tuple(query[run.row, :, run.queries] * scale for query in queries)
        keys, values = key[run.row, :, run.keys], value[run.row, :, run.keys]
        output[run.row, :, run.queries] = attend(layer, own, keys, values, run.position, chunks.chunk_length)
    return output


def _all_keys(
    layer: int, queries: tuple[Tensor, ...], key: Tensor, value: Tensor, position: int, chunk_length: int
) -> Tensor:
    return attend_run(queries, key, value, position, chunk_length)[0]


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
    wide = torch.promote_types(scores.dtype, torch.float32)
    weights = scores.masked_fill(~mask[:, :, block], float("-inf")).softmax(dim=-1, dtype=wide)
    output = weights.to(value.dtype).view(batch, groups, -1, key.shape[2]) @ value
    return output.view(batch, heads, rows, size)
