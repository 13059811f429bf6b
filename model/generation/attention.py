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
class Group:
    """One call of attention. ``B`` texts with one new token each, or ``B`` blocks of queries of a prefill."""

    rows: slice
    """Its rows of the flat batch."""
    pages: Tensor
    """(B * span / PAGE,)"""
    mask: Tensor
    """What the queries see: (B, 1, 1, S), or (1, 1, BLOCK, S) of a prefill; added to the scores, or bool under dual
    chunk attention."""
    padded: Tensor | None = None
    """(B * BLOCK,) of a prefill: which of its rows stands where in the blocks, any row where none does."""
    real: Tensor | None = None
    """(rows,) of a prefill: where in the blocks each of its rows stands."""
    chunks: dual_chunk.Chunks | None = None
    other_turns: tuple[Tensor, ...] = ()
    """With ``chunks``: positions (rows,) that queries are rotated by towards PREVIOUS and EARLIER chunks."""


class Attention:
    """The groups of one flat batch, in the order of its rows."""

    def __init__(self, config: ModelConfig, groups: list[Group]) -> None:
        self.groups = groups
        self.heads, self.key_values, self.size = (
            config.num_attention_heads, config.num_key_value_heads, config.head_dim
        )  # fmt: skip
        self.chunked = any(group.chunks is not None for group in groups)

    def __call__(self, query: Tensor, pages: Tensor, unrotated: Tensor | None, turned: Turned) -> Tensor:
        """Rotated queries (T, N, D) and one layer's pages (pages, PAGE, 2 K, D) -> (T, N * D). ``unrotated``: the
        queries before rotation, where dual chunk attention needs them ``turned`` otherwise."""
        outputs = [self._group(group, query, pages, unrotated, turned) for group in self.groups]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _group(self, group: Group, query: Tensor, pages: Tensor, unrotated: Tensor | None, turned: Turned) -> Tensor:
        seen = group.mask.shape[-1]
        gathered = pages.index_select(0, group.pages).view(-1, seen, 2 * self.key_values, self.size)
        key, value = gathered.transpose(1, 2).split(self.key_values, dim=1)  # 2 x (B, K, S, D)
        mine = query[group.rows]
        if group.chunks is not None:
            assert unrotated is not None
            raw = unrotated[group.rows]
            three = [mine, *(turned(raw, positions) for positions in group.other_turns)]
            queries = tuple(self._blocks(group, each) for each in three)
            output = dual_chunk.dual_chunk_attention(queries, key, value, group.mask, group.chunks)
        elif group.padded is None:
            return self._decode(mine, key, value, group.mask)
        else:
            output = F.scaled_dot_product_attention(
                self._blocks(group, mine), key, value, attn_mask=group.mask, enable_gqa=self.heads != self.key_values
            )
        flat = output.transpose(1, 2).reshape(-1, self.heads * self.size)  # (B * t, N * D)
        return flat if group.real is None else flat.index_select(0, group.real)

    def _blocks(self, group: Group, query: Tensor) -> Tensor:
        """(rows, N, D) -> (B, N, t, D), t BLOCK or 1."""
        if group.padded is None:
            return query[:, :, None]
        return query.index_select(0, group.padded).unflatten(0, (-1, BLOCK)).transpose(1, 2)

    def _decode(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """The query heads that share keys take the place of the tokens."""
        grouped = query.unflatten(1, (self.key_values, -1))  # (B, K, N / K, D)
        share = grouped.shape[2]
        if share < _LEAST_QUERIES:
            grouped = F.pad(grouped, (0, 0, 0, _LEAST_QUERIES - share))
        output = F.scaled_dot_product_attention(grouped, key, value, attn_mask=mask)
        return output[:, :, :share].reshape(query.shape[0], self.heads * self.size)
