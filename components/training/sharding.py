"""Which part of a batch a rank computes, as a pure function of the batch, the rank and the world size.

A batch is that of the whole run, whatever the number of processes: a pure function of seed and step. A stage says
how its batch splits into parts whose weighted losses add up to the loss of the whole. Rank r of w takes part r, so
the gradient is the same sum for every w.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor

from components.stage import StageError

Part = tuple[Any, float]
"""A micro-batch and the weight of its loss in that of the whole batch."""

Split = Callable[[Any, int], Sequence[Part]]
"""``split(micro_batch, parts)``: exactly ``parts`` parts. One without work has the weight 0, but still a micro-batch:
every rank takes part in every collective operation."""


def bounds(size: int, parts: int) -> list[tuple[int, int]]:
    """``parts`` consecutive ranges over ``size`` items, as even as possible, the larger ones first."""
    share, larger = divmod(size, parts)
    starts = [index * share + min(index, larger) for index in range(parts + 1)]
    return list(pairwise(starts))


def split_rows(batch: Tensor, parts: int) -> list[Part]:
    """Rows of a tensor, each of equal weight: for losses that are means over rows."""
    return [
        (batch[start:stop], (stop - start) / len(batch)) if stop > start else (batch[:1], 0.0)
        for start, stop in bounds(len(batch), parts)
    ]


def split_windows(batch: Tensor, parts: int) -> list[Part]:
    """Rows of token windows (B, T + 1) with negative padding: for losses that are means over labels."""
    labels = max(1, int((batch[:, 1:] >= 0).sum()))
    return [
        (rows, int((rows[:, 1:] >= 0).sum()) / labels if weight else 0.0) for rows, weight in split_rows(batch, parts)
    ]


def my_parts(batch: Any, split: Split, rank: int, world_size: int) -> list[Part]:
    """What rank ``rank`` computes of a batch: a micro-batch, or a list of micro-batches of equal weight."""
    micro_batches = batch if isinstance(batch, list) else [batch]
    each = 1.0 / len(micro_batches)
    if world_size == 1:
        return [(micro_batch, each) for micro_batch in micro_batches]
    if len(micro_batches) % world_size == 0:  # whole micro-batches keep their size
        return [(micro_batch, each) for micro_batch in micro_batches[rank::world_size]]
    shares = (split(micro_batch, world_size)[rank] for micro_batch in micro_batches)
    return [(part, weight * each) for part, weight in shares]


def check_divides(rows: int | None, world_size: int, name: str) -> None:
    """A world size that does not divide the batch leaves ranks waiting in every step: refuse it before the first.

    ``rows`` is the nominal number of sequences (windows, pairs) an update; None where a stage has none.
    """
    if rows is None or rows % world_size == 0:
        return
    fitting = [size for size in range(1, rows + 1) if rows % size == 0]
    near = sorted(fitting, key=lambda size: (abs(size - world_size), size))[:3]
    raise StageError(
        f"{name}: {world_size} processes cannot share a batch of {rows} evenly; run with a world size that divides it "
        f"(near: {', '.join(map(str, sorted(near)))}), or change the recipe's batch to a multiple of {world_size}"
    )


__all__ = ["Part", "Split", "bounds", "check_divides", "my_parts", "split_rows", "split_windows"]
