"""Attention over pages: keys and values of a few texts are gathered by their page tables, then read in one call.

Measured with one thread at 16 texts of 256 tokens: gathering adds 60 microseconds to 140 a layer at pocket shape (a
tenth of a whole step) and 2% of a step at 0.5B; in return beginnings are shared without copies, and memory is never
fragmented. How many keys a query reads (masked up to ``span``) depends on its own position alone, so its sums run in
the same order whatever else is in the batch.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from model import dual_chunk
from model.config import ModelConfig

BLOCK = 32
"""Queries that a prefill reads keys with at once; blocks begin at multiples of it."""
# Fewer query rows a key-value head take another path of the matrix library, with other bits than a prefill's.
_LEAST_QUERIES = 4

Turned = Callable[[Tensor, Tensor], Tensor]
"""A copy of queries (T, N, D) rotated by positions (T,)."""


def span(length: int) -> int:
    """Key slots that are read for ``length`` keys: multiples of 64, from 512 on eighths of the next power of two."""
    step = max(64, (1 << (length - 1).bit_length()) // 8)
    return -(-length // step) * step


@dataclass(frozen=True)
class Long:
    """A stretch of one text that is read by dual chunk attention, or sparsely."""

    position: int
    """Of its first query."""
    end: int
    """Keys that its last query sees."""
    chunk_length: int
    scale: Tensor | None
    """(1, rows, 1) factor of the logits."""
    reader: dual_chunk.Attend | None
    """How it is read sparsely; None: all of it."""


@dataclass(frozen=True)
class Group:
    """One call of attention. ``B`` texts with one new token each, or ``B`` blocks of queries of a prefill, or one long
    stretch."""

    rows: slice
    """Its rows of the flat batch."""
    pages: Tensor
    """(B * span / PAGE,)"""
    mask: Tensor | None
    """What the queries see: (B, 1, 1, S), or (1, 1, BLOCK, S) of a prefill; added to the scores, or bool under dual
    chunk attention. A long stretch has none."""
    padded: Tensor | None = None
    """(B * BLOCK,) of a prefill: which of its rows stands where in the blocks, any row where none does."""
    real: Tensor | None = None
    """(rows,) of a prefill: where in the blocks each of its rows stands."""
    chunks: dual_chunk.Chunks | None = None
    """Of single tokens under dual chunk attention."""
    long: Long | None = None
    other_turns: tuple[Tensor, ...] = ()
    """Under dual chunk attention: positions (rows,) that queries are rotated by towards PREVIOUS and EARLIER chunks."""


class Attention:
    """The groups of one flat batch, in the order of its rows."""

    def __init__(self, config: ModelConfig, groups: list[Group]) -> None:
        self.groups = groups
        self.heads, self.key_values, self.size = (
            config.num_attention_heads, config.num_key_value_heads, config.head_dim
        )  # fmt: skip
        self.chunked = any(group.other_turns for group in groups)

    def __call__(self, layer: int, query: Tensor, pages: Tensor, unrotated: Tensor | None, turned: Turned) -> Tensor:
        """Rotated queries (T, N, D) and this layer's pages (pages, PAGE, 2 K, D) -> (T, N * D). ``unrotated``: the
        queries before rotation, where dual chunk attention needs them ``turned`` otherwise."""
        outputs = []
        for group in self.groups:
            queries = [query[group.rows]]
            if group.other_turns:
                assert unrotated is not None
                queries += [turned(unrotated[group.rows], positions) for positions in group.other_turns]
            if group.long is None:
                outputs.append(self._group(group, queries, pages))
            else:
                outputs.append(self._long(group.long, queries, pages.index_select(0, group.pages), layer))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _group(self, group: Group, queries: list[Tensor], pages: Tensor) -> Tensor:
        assert group.mask is not None
        seen = group.mask.shape[-1]
        gathered = pages.index_select(0, group.pages).view(-1, seen, 2 * self.key_values, self.size)
        key, value = gathered.transpose(1, 2).split(self.key_values, dim=1)  # 2 x (B, K, S, D)
        if group.chunks is not None:
            single = tuple(query[:, :, None] for query in queries)  # (B, N, 1, D)
            output = dual_chunk.dual_chunk_attention(single, key, value, group.mask, group.chunks)
        elif group.padded is None:
            return self._decode(queries[0], key, value, group.mask)
        else:
            blocks = queries[0].index_select(0, group.padded).unflatten(0, (-1, BLOCK)).transpose(1, 2)
            output = F.scaled_dot_product_attention(
                blocks, key, value, attn_mask=group.mask, enable_gqa=self.heads != self.key_values
            )
        flat = output.transpose(1, 2).reshape(-1, self.heads * self.size)  # (B * t, N * D)
        return flat if group.real is None else flat.index_select(0, group.real)

    def _long(self, long: Long, queries: list[Tensor], pages: Tensor, layer: int) -> Tensor:
        keys = pages.flatten(0, 1)[: long.end].transpose(0, 1)  # (2 K, S, D)
        key, value = keys.split(self.key_values)
        rows = tuple(query.transpose(0, 1) for query in queries)  # (N, T, D) each
        if long.scale is not None:
            rows = tuple(row * long.scale for row in rows)
        if long.reader is None:
            output, _ = dual_chunk.attend_run(rows, key, value, long.position, long.chunk_length)
        else:  # it rotates queries further, and so wants pairs where the model has them
            rows, key = tuple(_halves_apart(row) for row in rows), _halves_apart(key)
            output = long.reader(layer, rows, key, value, long.position, long.chunk_length)
        return output.transpose(0, 1).reshape(-1, self.heads * self.size)

    def _decode(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """The query heads that share keys take the place of the tokens."""
        grouped = query.unflatten(1, (self.key_values, -1))  # (B, K, N / K, D)
        share = grouped.shape[2]
        if share < _LEAST_QUERIES:
            grouped = F.pad(grouped, (0, 0, 0, _LEAST_QUERIES - share))
        output = F.scaled_dot_product_attention(grouped, key, value, attn_mask=mask)
        return output[:, :, :share].reshape(query.shape[0], self.heads * self.size)


def _halves_apart(x: Tensor) -> Tensor:
    """(..., D) with the pair (2 i, 2 i + 1) back at (i, i + D / 2)."""
    return x.unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)
