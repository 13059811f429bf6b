"""Sequence parallelism after Ulysses (arXiv 2309.14509): processes share the tokens of every sequence, not its rows.

Each of P processes holds a slice of T / P tokens, so activations of a long text are shared by all of them. Around
attention slices of tokens are exchanged for slices of heads: a process then sees all tokens of N / P heads. Where there
are fewer key-value heads than processes, each is given to several.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from components.stage import Layout, StageError
from components.training import communication
from components.training.sharding import Part, Split, my_parts
from model.transformer import Attention


@dataclass(frozen=True)
class Slice:
    """Neighbouring tokens of windows, (B, t + 1): the inputs of one slice and their labels, one further."""

    tokens: Tensor
    first: int
    """Position of its first input in the window."""

    @property
    def positions(self) -> Tensor:
        """(1, t)"""
        return torch.arange(self.first, self.first + self.tokens.shape[1] - 1, device=self.tokens.device)[None]


def slices(windows: Tensor, parts: int) -> list[Part]:
    """Windows (B, T + 1) with negative padding as slices, each with its share of the labels."""
    length = windows.shape[1] - 1
    if length % parts:
        raise StageError(
            f"{parts} processes cannot share sequences of {length} tokens evenly; change the recipe's sequence_length "
            f"to a multiple of {parts}, or --sequence-parallel"
        )
    size, labels = length // parts, max(1, int((windows[:, 1:] >= 0).sum()))
    found = [Slice(windows[:, start : start + size + 1], start) for start in range(0, length, size)]
    return [(part, int((part.tokens[:, 1:] >= 0).sum()) / labels) for part in found]


def parts_of(batch: Any, split: Split, layout: Layout) -> list[Part]:
    """What ``layout.rank`` computes of a batch: rows of its own, or slices of rows that it shares with neighbours."""
    size = layout.sequence_parallel
    rows = my_parts(batch, split, layout.rank // size, layout.world_size // size)
    if size == 1:
        return rows
    mine = ((slices(windows, size)[layout.rank % size], weight) for windows, weight in rows)
    return [(part, share * weight) for (part, share), weight in mine]


def parallelise(model: nn.Module, layout: Layout) -> Callable[[], None]:
    """Let every attention of ``model`` exchange with the ranks that share this one's sequences; returns what undoes it.

    All ranks call it. Ranks that share sequences are neighbours, which lie on one host.
    """
    size = layout.sequence_parallel
    mine = None
    for first in range(0, layout.world_size, size):  # every rank takes part in making every group
        group = dist.new_group(list(range(first, first + size)))
        mine = group if first <= layout.rank < first + size else mine
    layers = list(_attentions(model))
    for attention in layers:
        heads, keys = attention.heads, attention.key_value_heads
        if heads % size or (keys % size and size % keys):
            raise StageError(
                f"--sequence-parallel {size}: {heads} heads ({keys} of keys and values) cannot be shared evenly"
            )
        attention.exchange = _Exchange(mine, size)

    def undo() -> None:
        for attention in layers:
            attention.exchange = None

    return undo


def _attentions(model: nn.Module) -> Iterator[Attention]:
    return (module for module in model.modules() if isinstance(module, Attention))


class _Exchange:
    """Between slices of tokens and slices of heads, in a group of ``size`` processes."""

    def __init__(self, group: Any, size: int) -> None:
        self.group, self.size = group, size

    def to_heads(self, x: Tensor) -> Tensor:
        batch, heads, tokens, width = x.shape
        if heads % self.size:
            x = x.repeat_interleave(self.size // heads, dim=1)
        sent = x.view(batch, self.size, -1, tokens, width).transpose(0, 1)  # (P, B, heads / P, t, D)
        return _AllToAll.apply(sent, self.group).permute(1, 2, 0, 3, 4).flatten(2, 3)

    def to_tokens(self, x: Tensor) -> Tensor:
        sent = x.unflatten(2, (self.size, -1)).permute(2, 0, 1, 3, 4)  # (P, B, heads / P, t, D)
        return _AllToAll.apply(sent, self.group).transpose(0, 1).flatten(1, 2)


_exchange = communication.timed(dist.all_to_all_single)


class _AllToAll(torch.autograd.Function):
    """Part p of the first dimension goes to process p; the gradient takes the same way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        received = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        _exchange(received, x.contiguous(), group=group)
        return received

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _AllToAll.apply(grad, ctx.group), None


__all__ = ["Slice", "parallelise", "parts_of", "slices"]
