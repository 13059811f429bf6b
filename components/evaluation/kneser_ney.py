"""The baseline that pre-training must beat: an order-5 token n-gram model with modified Kneser-Ney smoothing.

Interpolated modified Kneser-Ney after Chen and Goodman 1999, section 3, in numpy: n-grams of order k are named by
their rank among the distinct ones, so that a (k+1)-gram is one integer ``rank * vocab_size + token`` and every table
is a sorted array that ``searchsorted`` reads. All orders share the recursion

    p_k(w | context) = max(c_k(context w) - D_k(c_k), 0) / c_k(context) + gamma_k(context) p_{k-1}(w | shorter context)

which ends in the uniform distribution over the vocabulary. The highest order uses counts, lower orders use
continuation counts (how many different tokens precede the n-gram), and n-grams that begin with <|endoftext|> use
counts at every order, because nothing can precede them. No n-gram reaches across a document's start.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Order:
    """The n-grams of one order k.

    ``keys`` (grams,) sorted ``rank of the first k-1 tokens * vocab_size + last token``; ``discounted`` (grams,)
    ``max(c - D(c), 0)``; ``total`` and ``reserved`` (contexts,) are, for each (k-1)-gram as a context, the sum of its
    counts and the sum of what was discounted from them, so that gamma = reserved / total.
    """

    keys: Integers
    discounted: Floats
    total: Floats
    reserved: Floats


class KneserNey:
    """An n-gram model of order ``len(orders)``; ``orders[0]`` are the unigrams, whose key is the token itself."""

    def __init__(self, orders: list[Order], vocab_size: int, eos_id: int) -> None:
        self.orders, self.vocab_size, self.eos_id = orders, vocab_size, eos_id

    @classmethod
    def train(cls, tokens: NDArray[np.integer], *, vocab_size: int, eos_id: int, order: int = 5) -> "KneserNey":
        """Count ``tokens`` (n,), documents each followed by ``eos_id``."""
        if len(tokens) == 0:
            raise ValueError("an n-gram model needs at least one training token")
        # The first document starts like every other one: after an <|endoftext|>.
        stream = np.concatenate([[eos_id], np.asarray(tokens)]).astype(np.int64)
        ranks, keys, first = stream, np.arange(vocab_size), np.zeros(0, dtype=np.int64)
        tables: list[tuple[Integers, Integers, Integers]] = []  # keys, counts, one position of each n-gram
        by_position = []
        for k in range(1, order + 1):
            if k == 1:
                counts = np.bincount(stream[1:], minlength=vocab_size)  # the added start is no event
            else:
                valid = _inside_a_document(stream, k, eos_id)
                keys, counts, first, ranks = _distinct(ranks, stream, valid, vocab_size)
            tables.append((keys, counts, first))
            by_position.append(ranks)
        orders = []
        for k, (keys, counts, _) in enumerate(tables, start=1):
            if k < order:
                # A k-gram's continuation count: how many distinct (k+1)-grams end in it.
                longer_at = tables[k][2]
                continuation = np.bincount(by_position[k - 1][longer_at], minlength=len(keys))
                opens = _opens_a_document(tables, by_position, stream, k, eos_id)
                counts = np.where(opens, counts, continuation)
            context = keys // vocab_size if k > 1 else np.zeros(vocab_size, dtype=np.int64)
            orders.append(_discount(keys, counts, context, len(tables[k - 2][0]) if k > 1 else 1))
        return cls(orders, vocab_size, eos_id)

    def log2_probabilities(self, tokens: NDArray[np.integer]) -> Floats:
        """log2 p of every token given all before it in its document, (n,) for ``tokens`` (n,).

        ``tokens`` holds documents that each begin with ``eos_id``; that first token itself is given 0.
        """
        stream = np.asarray(tokens, dtype=np.int64)
        starts = stream == self.eos_id
        probability = np.full(len(stream), 1 / self.vocab_size)
        ranks = np.where(starts, self.eos_id, -1)  # (n,) rank of the (k-1)-gram that ends here, -1 where unseen
        for k, table in enumerate(self.orders, start=1):
            if k == 1:
                context = np.zeros(len(stream), dtype=np.int64)
                ranks = stream
            else:
                context = np.concatenate([[-1], ranks[:-1]])
                context[~_inside_a_document(stream, k, self.eos_id)] = -1
                ranks = _lookup(table.keys, context, stream, self.vocab_size)
            known = (context >= 0) & (table.total[context] > 0)
            seen = known & (ranks >= 0)
            total = np.where(known, table.total[context], 1.0)
            gamma = np.where(known, table.reserved[context] / total, 1.0)
            probability = np.where(seen, table.discounted[ranks], 0.0) / total + gamma * probability
        return np.where(starts, 0.0, np.log2(np.where(starts, 1.0, probability)))

    def distribution(self, context: list[int]) -> Floats:
        """p(w | context) for every w, (vocab_size,); ``context`` is a document so far, without its <|endoftext|>."""
        probability = np.full(self.vocab_size, 1 / self.vocab_size)
        history = [self.eos_id, *context]
        everything = np.arange(self.vocab_size)
        for k, table in enumerate(self.orders, start=1):
            if k - 1 > len(history):
                break
            rank = self._rank(history[len(history) - (k - 1) :])
            if rank < 0 or table.total[rank] == 0:
                continue
            found = _lookup(table.keys, np.full(self.vocab_size, rank), everything, self.vocab_size)
            own = np.where(found >= 0, table.discounted[found], 0.0)
            probability = (own + table.reserved[rank] * probability) / table.total[rank]
        return probability

    @cached_property
    def sizes(self) -> list[int]:
        """Distinct n-grams of each order (for order 1: the tokens that occur)."""
        return [int((self.orders[0].discounted > 0).sum())] + [len(table.keys) for table in self.orders[1:]]

    def _rank(self, gram: list[int]) -> int:
        """Rank of a k-gram among those seen, 0 for the empty one, -1 where unseen."""
        rank = 0
        for k, token in enumerate(gram, start=1):
            if k == 1:
                rank = token
            else:
                rank = int(_lookup(self.orders[k - 1].keys, np.array([rank]), np.array([token]), self.vocab_size)[0])
            if rank < 0:
                return -1
        return rank


def documents_stream(documents: list[NDArray[np.integer]], eos_id: int) -> Integers:
    """Documents as scored: each behind one ``eos_id``, (sum of lengths + documents,)."""
    parts = [part for document in documents for part in ([eos_id], document)]
    return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, dtype=np.int64)


def _inside_a_document(stream: Integers, k: int, eos_id: int) -> NDArray[np.bool_]:
    """(n,) whether the k tokens that end here hold <|endoftext|> at most at their first and their last place."""
    ends = np.concatenate([[0], np.cumsum(stream == eos_id)])  # ends[i] = in stream[:i]
    n = len(stream)
    valid = np.zeros(n, dtype=bool)
    # The interior of the k-gram that ends at i is stream[i-k+2 : i].
    position = np.arange(k - 1, n)
    valid[k - 1 :] = ends[position] == ends[np.maximum(position - k + 2, 0)]
    return valid


def _distinct(
    ranks: Integers, stream: Integers, valid: NDArray[np.bool_], vocab_size: int
) -> tuple[Integers, Integers, Integers, Integers]:
    """Distinct k-grams from the ranks of (k-1)-grams: keys, counts, a position of each, ranks by position."""
    position = np.flatnonzero(valid)
    key = ranks[position - 1] * vocab_size + stream[position]
    order = np.argsort(key)
    key_sorted = key[order]
    is_new = np.concatenate([[True], key_sorted[1:] != key_sorted[:-1]]) if len(key) else np.zeros(0, dtype=bool)
    starts = np.flatnonzero(is_new)
    counts = np.diff(np.append(starts, len(key)))
    by_position = np.full(len(stream), -1, dtype=np.int64)
    by_position[position[order]] = np.cumsum(is_new) - 1
    return key_sorted[starts], counts, position[order[starts]], by_position


def _opens_a_document(
    tables: list[tuple[Integers, Integers, Integers]],
    by_position: list[Integers],
    stream: Integers,
    k: int,
    eos_id: int,
) -> NDArray[np.bool_]:
    """(grams,) whether a k-gram begins with <|endoftext|>; the unigram does not: it is the end of a document."""
    if k == 1:
        return np.zeros(len(tables[0][0]), dtype=bool)
    return stream[tables[k - 1][2] - (k - 1)] == eos_id


def _discount(keys: Integers, counts: Integers, context: Integers, contexts: int) -> Order:
    """Apply the three discounts of Chen and Goodman, equation 17, estimated from counts of counts."""
    n1, n2, n3, n4 = (int((counts == r).sum()) for r in (1, 2, 3, 4))
    if n1 and n2:
        y = n1 / (n1 + 2 * n2)
        estimates = [1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3 if n3 else 1.5]
    else:  # too few n-grams to estimate from
        estimates = [0.5, 1.0, 1.5]
    # More than the count itself cannot be taken away, and repeated documents can push an estimate below zero.
    discounts = np.array([0.0, *(min(max(d, 0.05 * r), 0.95 * r) for r, d in enumerate(estimates, start=1))])
    discounted = np.maximum(counts - discounts[np.minimum(counts, 3)], 0.0)
    total = np.bincount(context, counts, minlength=contexts).astype(np.float64)
    kept = np.bincount(context, discounted, minlength=contexts).astype(np.float64)
    return Order(keys, discounted, total, total - kept)


def _lookup(keys: Integers, context: Integers, tokens: Integers, vocab_size: int) -> Integers:
    """Rank of ``context`` extended by ``tokens``, -1 where either is unseen."""
    if len(keys) == 0:
        return np.full(len(tokens), -1, dtype=np.int64)
    wanted = context * vocab_size + tokens
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where((context >= 0) & (keys[place] == wanted), place, -1)
