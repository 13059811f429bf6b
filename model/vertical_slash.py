"""Vertical-slash attention (MInference, arXiv 2407.02490): of a long text, each head reads a few columns and diagonals.

Most heads put nearly all of their attention on keys that every later query looks at (verticals) and on keys at certain
distances (slashes). Which ones is estimated while the text is read, from its last queries; how many, for each head, was
found beforehand (``model.prefill_search``). Under dual chunk attention the estimate looks at distances that go on
across chunks, as the Qwen2.5-1M report has it (arXiv 2501.15383): clamped ones would hide the slashes.

Work is skipped, not masked. Queries go in blocks; a run of neighbouring distances is a band, the same band for every
block, so its keys are an overlapping view of the text, and all blocks are attended in one call without a copy.

Shapes: N query heads, K key-value heads, G = N / K, T queries, S keys, D head_dim, n blocks of queries. Positions count
from the text's start.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from model.dual_chunk import EARLIER, OWN, PREVIOUS, parts
from model.partial_attention import attend_part, merge_parts

BLOCK = 64
"""Queries a block: a lone slash costs this many keys a query."""

# Their outputs, one for each part of the keys, fit the cache of a CPU.
BLOCKS_AT_ONCE = 32

Shift = Callable[[Tensor, int], Tensor]
"""Rotated queries (..., D), turned on by a number of positions."""


class Budget(NamedTuple):
    """What one head may read: so many columns, so many diagonals."""

    verticals: int
    slashes: int


@dataclass(frozen=True)
class Selection:
    """What one head reads: columns by position, ascending, and bands of distances (nearest, farthest), ascending and
    more than BLOCK apart; the first begins at 0."""

    columns: Tensor
    bands: list[tuple[int, int]]

    def keys_read(self, starts: Tensor) -> Tensor:
        """Keys that the blocks of queries at ``starts`` (n,) read: (n,)."""
        near, far = torch.tensor(self.bands, device=starts.device).unbind(1)
        last = starts[:, None] + BLOCK - 1  # no distance is greater
        widths = (torch.minimum(far, last) - near + BLOCK) * (near <= last)
        return torch.searchsorted(self.columns, starts) + widths.sum(dim=1)

    def seen(self, starts: Tensor, keys: int) -> Tensor:
        """(n, keys) bool: what the blocks read, the future of their first queries included."""
        distance = starts[:, None] - torch.arange(keys, device=starts.device)
        columns = torch.zeros(keys, dtype=torch.bool, device=starts.device)
        columns[self.columns] = True
        return (distance > -BLOCK) & ~outside_bands(distance, self.bands) | (distance > 0) & columns


def scores(
    queries: tuple[Tensor, ...],
    key: Tensor,
    first: int,
    chunk_length: int,
    shifts: tuple[int, int] | None,
    shift: Shift,
) -> tuple[Tensor, Tensor]:
    """How much the queries from position ``first`` to the end look at each key (G, S) and at each distance (G, S).

    ``queries`` 3 x (G, L, D) of one chunk, ``key`` (S, D), S = first + L. ``shifts``: by how much queries are turned on
    towards PREVIOUS and EARLIER chunks; None leaves the clamped positions that attention itself has.
    """
    if shifts is not None and first // chunk_length:
        queries = (queries[OWN], shift(queries[OWN], shifts[0]), shift(queries[OWN], shifts[1]))
    shares = logits(queries, key, first, chunk_length).softmax(dim=-1)
    group, rows, seen = shares.shape
    # Row r is at distance (first + r) - j of key j: reversed and written with a row of this length, equal distances
    # stand one below the other in a view whose rows are one shorter.
    width = seen + rows
    reversed_ = shares.new_zeros(group, rows, width)
    reversed_[:, :, :seen] = shares.flip(-1)
    diagonals = reversed_.as_strided((group, rows, seen), (rows * width, width - 1, 1), rows - 1)
    return shares.sum(dim=1), diagonals.sum(dim=1)


def logits(queries: tuple[Tensor, ...], key: Tensor, first: int, chunk_length: int) -> Tensor:
    """Causal logits (G, L, S) of ``queries`` 3 x (G, L, D) from position ``first`` on, all of one chunk; float32 or
    more."""
    size, rows = key.shape[1], queries[OWN].shape[1]
    wide = torch.promote_types(key.dtype, torch.float32)
    found = [queries[kind] @ key[keys].t() for kind, keys, _ in parts(first, first + rows, chunk_length)]
    result = torch.cat(found, dim=-1).to(wide).mul_(size**-0.5)
    future = torch.ones(rows, rows, dtype=torch.bool, device=key.device).triu_(1)
    result[:, :, first:].masked_fill_(future, float("-inf"))
    return result


def select(vertical: Tensor, slash: Tensor, budget: Budget, *, sinks: int, local: int) -> Selection:
    """The best columns and distances of one head by its scores, 2 x (S,), the first ``sinks`` columns and the nearest
    ``local`` distances (at least 0, the query itself) before all others."""
    columns = _best(vertical, sinks, budget.verticals)
    distances = _best(slash, max(local, 1), max(budget.slashes, 1))
    ends = (distances.diff() > BLOCK).nonzero().squeeze(1)
    near = torch.cat((distances[:1], distances[ends + 1]))
    far = torch.cat((distances[ends], distances[-1:]))
    return Selection(columns, list(zip(near.tolist(), far.tolist(), strict=True)))


def _best(values: Tensor, always: int, count: int) -> Tensor:
    """Indices of the ``count`` greatest, the first ``always`` counted as greatest; ascending."""
    values = values.clone()
    values[:always] = torch.arange(always, 0, -1, device=values.device)[: values.numel()].to(values) + values.sum()
    return values.topk(min(count, values.numel())).indices.sort().values


def attend_selected(
    queries: tuple[Tensor, ...], key: Tensor, value: Tensor, first: int, chunk_length: int, selection: Selection
) -> tuple[Tensor, Tensor]:
    """One head: queries 3 x (T, D) from position ``first`` on, all of one chunk, over 2 x (S, D), S = first + T ->
    output (T, D) and log-sum-exp of the logits that were read (T,)."""
    tokens, size = queries[OWN].shape
    blocks = -(-tokens // BLOCK)
    missing = blocks * BLOCK - tokens
    blocked = tuple(F.pad(query, (0, 0, 0, missing)).view(blocks, BLOCK, size) for query in queries)
    # windows may begin before the first key and end after the last one
    before = max(0, min(selection.bands[-1][1], key.shape[0] - 1) - first)
    padded_key, padded_value = (F.pad(x, (0, 0, before, missing)) for x in (key, value))
    chunk = first // chunk_length * chunk_length
    text = _Text(padded_key, padded_value, before, chunk, max(chunk - chunk_length, 0))
    done = [
        _attend_blocks(
            tuple(query[begin : begin + BLOCKS_AT_ONCE] for query in blocked), text, first + begin * BLOCK, selection
        )
        for begin in range(0, blocks, BLOCKS_AT_ONCE)
    ]
    output, log = (torch.cat(part).flatten(0, 1) for part in zip(*done, strict=True))
    return output[:tokens], log[:tokens]


class _Text(NamedTuple):
    """One head's keys and values with ``before`` rows of padding in front, and where the queries' chunk and the one
    before it begin."""

    key: Tensor
    value: Tensor
    before: int
    own: int
    previous: int

    def kinds(self, first: int, end: int) -> list[tuple[int, int, int]]:
        """Kinds of distance of the keys at positions ``first`` to ``end`` - 1, with the positions that each begins and
        ends at."""
        spans = [(OWN, self.own, end), (PREVIOUS, self.previous, self.own), (EARLIER, 0, self.previous)]
        return [(kind, a, b) for kind, a, b in spans if max(a, first) < min(b, end)]

    def window(self, x: Tensor, first: int, blocks: int, width: int) -> Tensor:
        """Rows ``first`` + b BLOCK to there + ``width`` for each block b: an overlapping view (blocks, width, D)."""
        size = x.shape[1]
        begin = x.storage_offset() + (first + self.before) * size
        return x.as_strided((blocks, width, size), (BLOCK * size, size, 1), begin)


def _attend_blocks(queries: tuple[Tensor, ...], text: _Text, first: int, selection: Selection) -> tuple[Tensor, Tensor]:
    """Blocks of queries 3 x (n, BLOCK, D) from position ``first`` on -> (n, BLOCK, D) and (n, BLOCK)."""
    blocks = queries[OWN].shape[0]
    last = first + blocks * BLOCK - 1
    key, value = (text.window(x, first, blocks, BLOCK) for x in (text.key, text.value))
    found = [attend_part(queries[OWN], key, value, causal=True)]  # each block over itself
    found += _over_columns(queries, text, first, selection)
    for near, far in selection.bands:
        if near <= last:
            # the nearest band without the block itself; and no query of these is farther than ``last`` from a key
            begin, width = first - min(far, last), min(far, last) - near + (BLOCK if near else 0)
            found += _over_band(queries, text, begin, width) if width else []
    return merge_parts(found)


def _over_columns(
    queries: tuple[Tensor, ...], text: _Text, first: int, selection: Selection
) -> list[tuple[Tensor, Tensor]]:
    blocks, device = queries[OWN].shape[0], text.key.device
    starts = torch.arange(first, first + blocks * BLOCK, BLOCK, device=device)
    columns = selection.columns[: int(torch.searchsorted(selection.columns, first + (blocks - 1) * BLOCK))]
    distance = starts[:, None] - columns
    unseen = (distance <= 0) | ~outside_bands(distance, selection.bands)  # (n, columns)
    cuts = torch.searchsorted(columns, torch.tensor([text.previous, text.own], device=device)).tolist()
    found = []
    for kind, a, b in ((EARLIER, 0, cuts[0]), (PREVIOUS, cuts[0], cuts[1]), (OWN, cuts[1], columns.numel())):
        if a < b:
            key, value = (x[columns[a:b] + text.before].expand(blocks, -1, -1) for x in (text.key, text.value))
            found.append(attend_part(queries[kind], key, value, hidden=unseen[:, a:b]))
    return found


def outside_bands(distance: Tensor, bands: list[tuple[int, int]]) -> Tensor:
    """Which keys at ``distance`` (n, keys) before their block's first query are in none of the block's windows."""
    near, far = torch.tensor(bands, device=distance.device).unbind(1)
    place = torch.searchsorted(near - BLOCK + 1, distance, right=True) - 1
    return distance > far[place.clamp(min=0)]


def _over_band(queries: tuple[Tensor, ...], text: _Text, begin: int, width: int) -> list[tuple[Tensor, Tensor]]:
    """Windows of ``width`` keys before the blocks, the first block's from position ``begin`` on."""
    blocks = queries[OWN].shape[0]
    end = begin + (blocks - 1) * BLOCK + width
    key, value = (text.window(x, begin, blocks, width) for x in (text.key, text.value))
    kinds = text.kinds(max(begin, 0), end)
    if len(kinds) == 1 and begin >= 0:
        return [attend_part(queries[kinds[0][0]], key, value)]
    starts = torch.arange(begin, begin + blocks * BLOCK, BLOCK, device=text.key.device)
    positions = starts[:, None] + torch.arange(width, device=text.key.device)  # (n, width)
    return [attend_part(queries[kind], key, value, hidden=(positions < a) | (positions >= b)) for kind, a, b in kinds]
