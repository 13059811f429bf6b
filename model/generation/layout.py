"""Lays out the tokens that a step computes: one flat batch, and the calls of attention that its rows belong to."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from model import dual_chunk
from model.config import DualChunkConfig, ModelConfig
from model.generation.attention import BLOCK, Attention, Group, span
from model.generation.pages import PAGE

# Keys and values gathered by one call of attention (bytes): more would fall out of the cache before it is read.
GATHERED_BYTES = 4 * 1024 * 1024


class Stretch(NamedTuple):
    """Tokens of one text that a step computes; those before them are in its pages."""

    tokens: Sequence[int]
    start: int
    """Position of the first."""
    table: np.ndarray
    """(span / PAGE or more,) int64: its pages, 0 after the last."""


@dataclass(frozen=True)
class FlatBatch:
    """The tokens of one forward pass, of many texts, in the order that attention wants."""

    tokens: Tensor
    """(T,)"""
    turns: Tensor
    """(T,) the positions that keys are rotated by."""
    slots: Tensor
    """(T,) where keys and values go: page * PAGE + place in the page."""
    attention: Attention
    last: list[int]
    """The row of each stretch's last token."""


class _Part(NamedTuple):
    """Tokens first..end (positions) of a stretch, inside one block of queries."""

    owner: int
    first: int
    end: int


def lay_out(stretches: Sequence[Stretch], config: ModelConfig, dtype: torch.dtype, device: torch.device) -> FlatBatch:
    """Tokens whose attention reads equally many keys stand together: single tokens by the span of keys that they see,
    longer stretches by their blocks of queries."""
    chunking = config.dual_chunk_attention
    singles: dict[tuple[bool, int], list[_Part]] = defaultdict(list)
    blocks: dict[tuple[bool, int], list[_Part]] = defaultdict(list)
    for owner, (tokens, start, _) in enumerate(stretches):
        end = start + len(tokens)
        if end == start + 1:
            singles[_is_chunked(end, chunking), span(end)].append(_Part(owner, start, end))
            continue
        for block in range(start // BLOCK, -(-end // BLOCK)):
            first = block * BLOCK
            part = _Part(owner, max(start, first), min(end, first + BLOCK))
            blocks[_is_chunked(first + BLOCK, chunking), block].append(part)
    slot_bytes = 2 * config.num_key_value_heads * config.head_dim * dtype.itemsize
    builder = _Builder(stretches, chunking, dtype, device)
    groups = []
    for (chunked, seen), parts in sorted(singles.items()):
        groups += [builder.singles(some, seen, chunked) for some in _few(parts, seen * slot_bytes)]
    for (chunked, block), parts in sorted(blocks.items()):
        seen = span((block + 1) * BLOCK)
        groups += [builder.blocks(some, block, seen, chunked) for some in _few(parts, seen * slot_bytes)]
    return builder.batch(Attention(config, groups))


def _few(parts: list[_Part], bytes_each: int) -> list[list[_Part]]:
    most = max(1, GATHERED_BYTES // bytes_each)
    return [parts[begin : begin + most] for begin in range(0, len(parts), most)]


def _is_chunked(length: int, chunking: DualChunkConfig | None) -> bool:
    return chunking is not None and not dual_chunk.is_plain(length, chunking)


class _Builder:
    """Collects rows while groups are made."""

    def __init__(
        self, stretches: Sequence[Stretch], chunking: DualChunkConfig | None, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.stretches, self.chunking, self.dtype, self.device = stretches, chunking, dtype, device
        self.tokens: list[int] = []
        self.positions: list[int] = []
        self.slots: list[int] = []
        self.last = [0] * len(stretches)

    def singles(self, parts: list[_Part], seen: int, chunked: bool) -> Group:
        begin = len(self.tokens)
        for owner, position, _ in parts:
            stretch = self.stretches[owner]
            self.last[owner] = len(self.tokens)
            self.tokens.append(stretch.tokens[0])
            self.positions.append(position)
            self.slots.append(int(stretch.table[position // PAGE]) * PAGE + position % PAGE)
        ends = torch.tensor([part.end for part in parts], device=self.device)
        visible = torch.arange(seen, device=self.device) < ends[:, None, None, None]  # (B, 1, 1, S)
        return self._group(begin, parts, seen, visible, chunked, padded=None, real=None)

    def blocks(self, parts: list[_Part], block: int, seen: int, chunked: bool) -> Group:
        begin, first = len(self.tokens), block * BLOCK
        padded = np.zeros((len(parts), BLOCK), np.int64)
        real = []
        for index, (owner, start, end) in enumerate(parts):
            tokens, offset, table = self.stretches[owner]
            row = len(self.tokens) - begin
            positions = np.arange(start, end)
            padded[index, start - first : end - first] = np.arange(row, row + end - start)
            real.append(index * BLOCK + positions - first)
            self.tokens += tokens[start - offset : end - offset]
            self.positions += positions.tolist()
            self.slots += (table[positions // PAGE] * PAGE + positions % PAGE).tolist()
            self.last[owner] = len(self.tokens) - 1  # a stretch's blocks come in order
        keys = torch.arange(seen, device=self.device)
        visible = (keys <= torch.arange(first, first + BLOCK, device=self.device)[:, None])[None, None]
        return self._group(begin, parts, seen, visible, chunked, padded=padded, real=np.concatenate(real))

    def _group(
        self, begin: int, parts: list[_Part], seen: int, visible: Tensor, chunked: bool,
        padded: np.ndarray | None, real: np.ndarray | None,
    ) -> Group:  # fmt: skip
        pages = np.stack([self.stretches[part.owner].table[: seen // PAGE] for part in parts])
        mask, chunks = visible, None
        other_turns: tuple[Tensor, ...] = ()
        if chunked:
            assert self.chunking is not None
            own = torch.tensor(self.positions[begin:], device=self.device)
            _, *other = dual_chunk.query_positions(own, self.chunking)
            other_turns = tuple(other)
            in_blocks = own[:, None] if padded is None else own[torch.from_numpy(padded).to(self.device)]  # (B, t)
            chunks = dual_chunk.Chunks(
                turns=(),
                query_chunk=in_blocks // self.chunking.chunk_length,
                key_chunk=torch.arange(seen, device=self.device)[None] // self.chunking.chunk_length,
                scale=dual_chunk.logit_scale(in_blocks, self.chunking),
            )
        else:
            mask = torch.zeros(visible.shape, dtype=self.dtype, device=self.device)
            mask.masked_fill_(~visible, float("-inf"))
        return Group(
            rows=slice(begin, len(self.tokens)),
            pages=torch.from_numpy(pages.ravel()).to(self.device),
            mask=mask,
            padded=None if padded is None else torch.from_numpy(padded.ravel()).to(self.device),
            real=None if real is None else torch.from_numpy(real).to(self.device),
            chunks=chunks,
            other_turns=other_turns,
        )

    def batch(self, attention: Attention) -> FlatBatch:
        tokens, positions, slots = torch.tensor([self.tokens, self.positions, self.slots], device=self.device)
        turns = positions if self.chunking is None else dual_chunk.key_positions(positions, self.chunking)
        return FlatBatch(tokens, turns, slots, attention, self.last)
