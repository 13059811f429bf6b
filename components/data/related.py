"""Packing by relation: what shares a long window has something to do with one another.

Windows of documents that chance has put together reward a model for ignoring all but the last of them; related ones
("In-Context Pretraining", Shi et al. 2023, arXiv 2310.10638) are worth reading across. Relation is the cosine of TF-IDF
vectors of tokens; a window grows by the nearest documents that still fit, and what is left open is filled as by
``packing``. Every piece is compared with every other: minutes for some hundred thousand of them.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from components.data.packing import Windows, best_fit, pieces
from components.data.shard_reader import TokenFile

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

NEIGHBOURS = 32
"""Of a piece, that its window may take in."""
ROWS_AT_ONCE = 512

Array = NDArray[np.int64]


def pack_related(file: TokenFile, length: int, vocab_size: int) -> Windows:
    """Windows of ``length + 1`` tokens over ``file``, as sound as ``packing.pack_documents``; deterministic."""
    starts, sizes = pieces(file.offsets, length)
    groups = _grow(sizes, length + 1, _neighbours(piece_vectors(file, starts, sizes, vocab_size)))
    totals = np.array([sizes[group].sum() for group in groups], dtype=np.int64)
    order = np.argsort(-totals, kind="stable")
    window_of, count = best_fit(totals[order], length + 1)
    members: list[list[int]] = [[] for _ in range(count)]
    for group, window in zip(order.tolist(), window_of.tolist(), strict=True):
        members[window] += groups[group]
    first_piece = np.concatenate([[0], np.cumsum([len(window) for window in members])]).astype(np.int64)
    order = np.array([piece for window in members for piece in window], dtype=np.int64)
    return Windows(length, starts[order], sizes[order], first_piece)


def piece_vectors(file: TokenFile, starts: Array, sizes: Array, vocab_size: int) -> "csr_matrix":
    """TF-IDF of each piece's tokens, rows of unit length, (pieces, vocab_size)."""
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import TfidfTransformer

    tokens = [np.asarray(file.tokens[start : start + size]) for start, size in zip(starts, sizes, strict=True)]
    columns = np.concatenate(tokens) if tokens else np.zeros(0, np.int64)
    bounds = np.concatenate([[0], np.cumsum(sizes)])
    counts = csr_matrix((np.ones(len(columns), np.float32), columns, bounds), shape=(len(sizes), vocab_size))
    counts.sum_duplicates()
    return TfidfTransformer(sublinear_tf=True).fit_transform(counts)


def relatedness(windows: Windows, file: TokenFile, vocab_size: int) -> float:
    """Mean cosine of the pieces that follow each other in a window; 0 where no window has two."""
    vectors = piece_vectors(file, windows.starts, windows.sizes, vocab_size)
    follows = np.ones(len(windows.starts), dtype=bool)
    follows[windows.first_piece[:-1]] = False
    later = np.flatnonzero(follows)
    if not len(later):
        return 0.0
    return float(np.asarray(vectors[later].multiply(vectors[later - 1]).sum(axis=1)).mean())


def _neighbours(vectors: "csr_matrix") -> Array:
    """The nearest other pieces of each, nearest first, (pieces, <= NEIGHBOURS); -1 where nothing is shared."""
    count = vectors.shape[0]
    kept = min(NEIGHBOURS, max(0, count - 1))
    found = np.full((count, kept), -1, dtype=np.int64)
    for begin in range(0, count, ROWS_AT_ONCE):
        similar = (vectors[begin : begin + ROWS_AT_ONCE] @ vectors.T).toarray()
        rows = np.arange(len(similar))
        similar[rows, begin + rows] = 0.0  # not itself
        nearest = np.argsort(-similar, axis=1, kind="stable")[:, :kept]
        found[begin : begin + len(similar)] = np.where(similar[rows[:, None], nearest] > 0, nearest, -1)
    return found


def _grow(sizes: Array, capacity: int, neighbours: Array) -> list[list[int]]:
    """Groups of pieces that fit into a window together, each grown from its largest by a chain of nearest ones."""
    free = np.ones(len(sizes), dtype=bool)
    groups = []
    for seed in np.argsort(-sizes, kind="stable").tolist():
        if not free[seed]:
            continue
        group, room = [seed], capacity - int(sizes[seed])
        free[seed] = False
        while room:
            near = neighbours[group[-1]]
            fitting = near[(near >= 0) & free[near] & (sizes[near] <= room)]
            if not len(fitting):
                break
            group.append(int(fitting[0]))
            free[fitting[0]] = False
            room -= int(sizes[fitting[0]])
        groups.append(group)
    return groups


__all__ = ["pack_related", "piece_vectors", "relatedness"]
