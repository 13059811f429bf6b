"""Batches from several shards at given weights, as a pure function of (seed, step) like those of each.

Rows are dealt out in blocks: how many of a block come from which shards follows from the weights alone, so that shares
are exact at every block's end, and a seeded shuffle says which. Any step can be asked for at once: how many rows of
each came before it is a formula.
"""

from collections.abc import Sequence

import numpy as np

from components.data.shard_reader import ShardReader

BLOCK = 1_024
"""Rows that are dealt out together."""


class MixedReader:
    """Several shards of one vocabulary.

    >>> reader = MixedReader([ShardReader(web), ShardReader("s3://bucket/code")], weights=[3, 1])
    >>> tokens = reader.batch(seed=0, step=12, batch_size=32, length=256)   # (32, 257) int64
    """

    def __init__(self, readers: Sequence[ShardReader], weights: Sequence[float]) -> None:
        if len(readers) != len(weights) or not readers or min(weights) < 0 or sum(weights) <= 0:
            raise ValueError(f"expected a weight of at least 0 for each of {len(readers)} shards, got {list(weights)}")
        if len({(reader.vocab_size, reader.eos_id) for reader in readers}) > 1:
            raise ValueError("the shards have different vocabularies: " + ", ".join(str(r.path) for r in readers))
        self.readers = list(readers)
        self.vocab_size, self.eos_id = readers[0].vocab_size, readers[0].eos_id
        self._bounds = np.concatenate([[0.0], np.cumsum(weights) / np.sum(weights)])
        self._bounds[-1] = 1.0

    def batch(self, seed: int, step: int, batch_size: int, length: int) -> np.ndarray:
        """Training windows of one step, (batch_size, length + 1) int64; an epoch of each shards is its own."""
        rows = np.arange(step * batch_size, (step + 1) * batch_size)
        sources, places = self.sources(seed, rows)
        tokens = np.empty((batch_size, length + 1), dtype=np.int64)
        for number, reader in enumerate(self.readers):
            mine = sources == number
            if mine.any():
                tokens[mine] = reader.rows(seed, places[mine], length)
        return tokens

    def sources(self, seed: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which shards each row comes from, and as their how-manieth row: both (rows,)."""
        sources, places = np.empty_like(rows), np.empty_like(rows)
        for block in np.unique(rows // BLOCK).tolist():
            mine = rows // BLOCK == block
            before, after = self._before(block), self._before(block + 1)
            dealt = np.repeat(np.arange(len(self.readers)), after - before)
            np.random.default_rng([seed, 2, block]).shuffle(dealt)
            nth = np.empty_like(dealt)
            for number, start in enumerate(before.tolist()):
                of_it = np.flatnonzero(dealt == number)
                nth[of_it] = start + np.arange(len(of_it))
            inside = rows[mine] - block * BLOCK
            sources[mine], places[mine] = dealt[inside], nth[inside]
        return sources, places

    def _before(self, block: int) -> np.ndarray:
        """Rows of each shards before a block, (shards,): their sum is exact, each is within one of its share."""
        return np.diff(np.floor(self._bounds * block * BLOCK + 1e-9).astype(np.int64))
