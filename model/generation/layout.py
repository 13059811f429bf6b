"""Lays out the tokens that a step computes: one flat batch, and the calls of attention that its rows belong to."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from model import dual_chunk
from model.config import DualChunkConfig
from model.generation.attention import BLOCK, Attention, Group, Long, span
from model.generation.pages import PAGE

if TYPE_CHECKING:
    from model.generation.network import Network

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
    owners: list[int]
    """(T,) which stretch each row is of."""


class _Part(NamedTuple):
    """Tokens first..end (positions) of a stretch, inside one block of queries."""

    owner: int
    first: int
    end: int


def lay_out(stretches: Sequence[Stretch], network: "Network") -> FlatBatch:
    """Tokens whose attention reads equally many keys stand together: single tokens by the span of keys that they see,
    longer stretches by their blocks of queries. Under dual chunk attention, or where a text is read sparsely, a
    stretch stands for itself."""
    config, chunking = network.config, network.config.dual_chunk_attention
    singles: dict[tuple[bool, int], list[_Part]] = defaultdict(list)
    blocks: dict[int, list[_Part]] = defaultdict(list)
    long: list[_Part] = []
    for owner, (tokens, start, _) in enumerate(stretches):
        end = start + len(tokens)
        if end == start + 1:
            singles[_is_chunked(end, chunking), span(end)].append(_Part(owner, start, end))
            continue
        if _is_chunked(end, chunking) or (network.sparse_from is not None and end >= network.sparse_from):
            long.append(_Part(owner, start, end))
            continue
        for block in range(start // BLOCK, -(-end // BLOCK)):
            first = block * BLOCK
            blocks[block].append(_Part(owner, max(start, first), min(end, first + BLOCK)))
    slot_bytes = 2 * config.num_key_value_heads * config.head_dim * network.dtype.itemsize
    builder = _Builder(stretches, network)
    groups = []
    for (chunked, seen), parts in sorted(singles.items()):
        groups += [builder.singles(some, seen, chunked) for some in _few(parts, seen * slot_bytes)]
    for block, parts in sorted(blocks.items()):
        seen = span((block + 1) * BLOCK)
        groups += [builder.blocks(some, block, seen) for some in _few(parts, seen * slot_bytes)]
    groups += [builder.long(part) for part in long]
    return builder.batch(Attention(config, groups))


def _few(parts: list[_Part], bytes_each: int) -> list[list[_Part]]:
    most = max(1, GATHERED_BYTES // bytes_each)
    return [parts[begin : begin + most] for begin in range(0, len(parts), most)]


def _is_chunked(length: int, chunking: DualChunkConfig | None) -> bool:
    return chunking is not None and not dual_chunk.is_plain(length, chunking)


class _Builder:
    """Collects rows while groups are made."""

    def __init__(self, stretches: Sequence[Stretch], network: "Network") -> None:
        self.stretches, self.network = stretches, network
        self.chunking, self.device = network.config.dual_chunk_attention, network.device
        self.tokens: list[int] = []
        self.positions: list[int] = []
        self.slots: list[int] = []
        self.owners: list[int] = []
        self.last = [0] * len(stretches)

    def singles(self, parts: list[_Part], seen: int, chunked: bool) -> Group:
        begin = len(self.tokens)
        for owner, position, _ in parts:
            stretch = self.stretches[owner]
            self.last[owner] = len(self.tokens)
            self.owners.append(owner)
            self.tokens.append(stretch.tokens[0])
            self.positions.append(position)
            self.slots.append(int(stretch.table[position // PAGE]) * PAGE + position % PAGE)
        ends = torch.tensor([part.end for part in parts], device=self.device)
        visible = torch.arange(seen, device=self.device) < ends[:, None, None, None]  # (B, 1, 1, S)
        rows, pages = slice(begin, len(self.tokens)), self._pages(parts, seen // PAGE)
        if not chunked:
            return Group(rows, pages, self._added(visible))
        assert self.chunking is not None
        own = (ends - 1)[:, None]  # (B, 1)
        chunks = dual_chunk.Chunks(
            turns=(),
            query_chunk=own // self.chunking.chunk_length,
            key_chunk=torch.arange(seen, device=self.device)[None] // self.chunking.chunk_length,
            scale=dual_chunk.logit_scale(own, self.chunking),
        )
        _, *other = dual_chunk.query_positions(ends - 1, self.chunking)
        return Group(rows, pages, visible, chunks=chunks, other_turns=tuple(other))

    def blocks(self, parts: list[_Part], block: int, seen: int) -> Group:
        begin, first = len(self.tokens), block * BLOCK
        padded = np.zeros((len(parts), BLOCK), np.int64)
        real = []
        for index, part in enumerate(parts):
            row, inside = len(self.tokens) - begin, np.arange(part.first - first, part.end - first)
            padded[index, inside] = np.arange(row, row + len(inside))
            real.append(index * BLOCK + inside)
            self._append(part)
        keys = torch.arange(seen, device=self.device)
        visible = (keys <= torch.arange(first, first + BLOCK, device=self.device)[:, None])[None, None]
        return Group(
            slice(begin, len(self.tokens)),
            self._pages(parts, seen // PAGE),
            self._added(visible),
            padded=torch.from_numpy(padded.ravel()).to(self.device),
            real=torch.from_numpy(np.concatenate(real)).to(self.device),
        )

    def long(self, part: _Part) -> Group:
        begin = len(self.tokens)
        self._append(part)
        other: list[Tensor] = []
        scale, chunk_length = None, dual_chunk.NO_CHUNKS
        if _is_chunked(part.end, self.chunking):
            assert self.chunking is not None
            chunk_length = self.chunking.chunk_length
            positions = torch.arange(part.first, part.end, device=self.device)
            _, *other = dual_chunk.query_positions(positions, self.chunking)
            scale = dual_chunk.logit_scale(positions, self.chunking).to(self.network.dtype)[None, :, None]
        sparse = self.network.sparse_from is not None and part.end >= self.network.sparse_from
        reader = self.network.reader if sparse else None
        return Group(
            slice(begin, len(self.tokens)),
            self._pages([part], -(-part.end // PAGE)),
            mask=None,
            long=Long(part.first, part.end, chunk_length, scale, reader),
            other_turns=tuple(other),
        )

    def batch(self, attention: Attention) -> FlatBatch:
        tokens, positions, slots = torch.tensor([self.tokens, self.positions, self.slots], device=self.device)
        turns = positions if self.chunking is None else dual_chunk.key_positions(positions, self.chunking)
        return FlatBatch(tokens, turns, slots, attention, self.last, self.owners)

    def _append(self, part: _Part) -> None:
        tokens, offset, table = self.stretches[part.owner]
        positions = np.arange(part.first, part.end)
        self.tokens += tokens[part.first - offset : part.end - offset]
        self.positions += positions.tolist()
        self.owners += [part.owner] * len(positions)
        self.slots += (table[positions // PAGE] * PAGE + positions % PAGE).tolist()
        self.last[part.owner] = len(self.tokens) - 1  # a stretch's blocks come in order

    def _pages(self, parts: list[_Part], number: int) -> Tensor:
        pages = np.stack([self.stretches[part.owner].table[:number] for part in parts])
        return torch.from_numpy(pages.ravel()).to(self.device)

    def _added(self, visible: Tensor) -> Tensor:
        mask = torch.zeros(visible.shape, dtype=self.network.dtype, device=self.device)
        return mask.masked_fill_(~visible, float("-inf"))
