"""Best-fit packing of whole documents into windows of one length.

Cutting one long stream of tokens every ``length`` tokens splits documents that would have fitted, and a split
document loses its context ("Fewer Truncations Improve Language Modeling", arXiv 2404.10830). Best-fit-decreasing
places the longest piece first, each into the window with the least room that still takes it.
"""

from dataclasses import dataclass
from itertools import chain

import numpy as np


@dataclass(frozen=True)
class Windows:
    """Windows of ``length + 1`` tokens (inputs and the labels one further), as pieces of a token file.

    Window ``w`` holds the pieces ``first_piece[w]:first_piece[w + 1]``, in that order.
    """

    length: int
    starts: np.ndarray
    """(pieces,) int64: where a piece starts in the token file."""
    sizes: np.ndarray
    """(pieces,) int64: tokens of a piece."""
    first_piece: np.ndarray
    """(windows + 1,) int64."""

    def __len__(self) -> int:
        return len(self.first_piece) - 1

    @property
    def padding_share(self) -> float:
        """Share of positions that no piece fills."""
        positions = len(self) * (self.length + 1)
        return 1.0 - float(self.sizes.sum()) / positions if positions else 0.0


def pack_documents(offsets: np.ndarray, length: int) -> Windows:
    """Pack the documents that ``offsets`` (documents + 1, int64) delimits into windows of ``length + 1`` tokens.

    A document that fits is never cut. A longer one becomes pieces that overlap by one token, so that each of its
    tokens but the first is a label exactly once; only its last piece shares a window. Deterministic.
    """
    starts, sizes = pieces(offsets, length)
    order = np.argsort(-sizes, kind="stable")
    window_of, count = best_fit(sizes[order], length + 1)
    by_window = np.argsort(window_of, kind="stable")
    first_piece = np.searchsorted(window_of[by_window], np.arange(count + 1))
    order = order[by_window]
    return Windows(length, starts[order], sizes[order], first_piece)


def pieces(offsets: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Starts and sizes of the pieces of all documents, in file order."""
    tokens = np.diff(offsets)
    # The overlap makes n tokens need ceil((n - 1) / length) pieces; a lone token still needs one.
    counts = np.maximum(-(-(tokens - 1) // length), 1) * (tokens > 0)
    document = np.repeat(np.arange(len(tokens)), counts)
    nth = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = offsets[:-1][document] + nth * length
    sizes = np.minimum(length + 1, offsets[1:][document] - starts)
    return starts.astype(np.int64), sizes.astype(np.int64)


def best_fit(sizes: np.ndarray, capacity: int) -> tuple[np.ndarray, int]:
    """Window of each piece (sizes in decreasing order) and the number of windows.

    ``rooms`` has bit r set where some window has exactly r tokens left, so the best fit is its lowest set bit at
    or above the size: two operations on one integer instead of a search tree.
    """
    open_windows: list[list[int]] = [[] for _ in range(capacity + 1)]
    rooms = 0
    count = 0
    window_of = np.empty(len(sizes), dtype=np.int64)
    # A few as Python's own numbers at a time, which take four times the memory.
    numbers = chain.from_iterable(sizes[start : start + 65_536].tolist() for start in range(0, len(sizes), 65_536))
    for index, size in enumerate(numbers):
        fitting = rooms >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            window = open_windows[room].pop()
            if not open_windows[room]:
                rooms ^= 1 << room
        else:
            window, room = count, capacity
            count += 1
        window_of[index] = window
        left = room - size
        if left:
            open_windows[left].append(window)
            rooms |= 1 << left
    return window_of, count


def cut_shares(offsets: np.ndarray, windows: Windows) -> tuple[float, float]:
    """Share of the documents that fit a window which are split (by this packing, by concatenate-and-cut)."""
    capacity = windows.length + 1
    tokens = np.diff(offsets)
    fits = (tokens > 0) & (tokens <= capacity)
    if not fits.any():
        return 0.0, 0.0
    by_start = np.argsort(windows.starts)
    place = np.searchsorted(windows.starts[by_start], offsets[:-1][fits])  # the piece that starts where a document does
    split = windows.sizes[by_start[place]] != tokens[fits]
    crosses = offsets[:-1] // capacity != (offsets[1:] - 1) // capacity
    return float(split.mean()), float(crosses[fits].mean())
