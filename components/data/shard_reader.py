"""Reads token shards: memory-mapped, with batches that are a pure function of (seed, step).

There is no loader state: a training run that was killed asks for the batch of its next step and goes on.
"""

import json
from collections.abc import Iterator
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from components.data.packing import Windows, pack_documents
from components.data.remote_tokens import RemoteTokens, load_array, read_object
from components.stage import Artifact


class TokenFile:
    """Documents as one file of token ids, memory-mapped or in a bucket, and the offsets between them."""

    def __init__(self, stem: Path | str, dtype: str) -> None:
        self.tokens: np.ndarray | RemoteTokens
        if isinstance(stem, str):
            self.offsets: np.ndarray = load_array(f"{stem}.offsets.npy")
            self.tokens = RemoteTokens(f"{stem}.bin", dtype)
        else:
            self.offsets = np.load(stem.parent / f"{stem.name}.offsets.npy")
            empty = int(self.offsets[-1]) == 0  # numpy cannot map an empty file
            file = stem.parent / f"{stem.name}.bin"
            self.tokens = np.zeros(0, dtype) if empty else np.memmap(file, dtype=dtype, mode="r")
        self.windows = lru_cache(maxsize=4)(self._windows)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def document(self, index: int) -> np.ndarray:
        """Token ids of one document with its end token, int64."""
        return self.tokens[self.offsets[index] : self.offsets[index + 1]].astype(np.int64)

    def documents(self) -> Iterator[np.ndarray]:
        return (self.document(index) for index in range(len(self)))

    def _windows(self, length: int) -> Windows:
        return pack_documents(self.offsets, length)

    def read(self, windows: Windows, indices: np.ndarray, padding: int) -> np.ndarray:
        """Tokens of some windows, ``(len(indices), length + 1)`` int64; unfilled positions hold ``padding``."""
        rows = np.full((len(indices), windows.length + 1), padding, dtype=np.int64)
        for row, window in zip(rows, indices, strict=True):
            filled = 0
            for piece in range(windows.first_piece[window], windows.first_piece[window + 1]):
                start, size = int(windows.starts[piece]), int(windows.sizes[piece])
                row[filled : filled + size] = self.tokens[start : start + size]
                filled += size
        return rows

    def documents_in(self, windows: Windows, indices: np.ndarray) -> list[int]:
        """Indices of the documents that some windows hold a piece of, ascending."""
        starts = [windows.starts[windows.first_piece[w] : windows.first_piece[w + 1]] for w in indices]
        return np.unique(np.searchsorted(self.offsets, np.concatenate(starts), side="right") - 1).tolist()


class ShardReader:
    """The shards artifact of one run, a folder like it, or ``s3://bucket/prefix``, of which batches are read by range.

    >>> reader = ShardReader(inputs["shards"])
    >>> tokens = reader.batch(seed=0, step=12, batch_size=32, length=256)   # (32, 257) int64
    >>> inputs, labels = tokens[:, :-1], tokens[:, 1:]
    """

    def __init__(self, source: Artifact | Path | str) -> None:
        self.path = source if isinstance(source, Path | str) else source.path
        facts = self._at("shards.json")
        self.facts: dict[str, Any] = json.loads(read_object(facts) if isinstance(facts, str) else facts.read_text())
        self.vocab_size: int = self.facts["vocab_size"]
        self.eos_id: int = self.facts["eos_id"]
        self.train_tokens: int = self.facts["train"]["tokens"]
        self._permutation = lru_cache(maxsize=4)(self._compute_permutation)

    @cached_property
    def train(self) -> TokenFile:
        return TokenFile(self._at("train"), self.facts["dtype"])

    def _at(self, name: str) -> Path | str:
        return f"{self.path.rstrip('/')}/{name}" if isinstance(self.path, str) else self.path / name

    @cached_property
    def validation(self) -> dict[str, TokenFile]:
        """Held-out documents by domain, in alphabetical order."""
        return {
            domain: TokenFile(self._at(f"validation/{domain}"), self.facts["dtype"])
            for domain in sorted(self.facts["validation"])
        }

    def windows(self, length: int) -> Windows:
        """The packed training windows of ``length`` (+ 1) tokens; ``len()`` of it is one epoch."""
        return self.train.windows(length)

    def batch(self, seed: int, step: int, batch_size: int, length: int) -> np.ndarray:
        """Training windows of one step, ``(batch_size, length + 1)`` int64.

        Every epoch is its own seeded permutation of all windows, so each window is met once an epoch.
        """
        return self.rows(seed, step * batch_size + np.arange(batch_size), length)

    def rows(self, seed: int, rows: np.ndarray, length: int) -> np.ndarray:
        """Training windows by their place in the endless sequence of epochs, ``(rows, length + 1)`` int64."""
        indices = self._window_indices(seed, rows, length)
        return self.train.read(self.windows(length), indices, padding=self.eos_id)

    def documents_of(self, seed: int, step: int, batch_size: int, length: int) -> list[int]:
        """Indices of the training documents that ``batch`` of the same arguments holds, ascending."""
        rows = step * batch_size + np.arange(batch_size)
        return self.train.documents_in(self.windows(length), self._window_indices(seed, rows, length))

    def _window_indices(self, seed: int, rows: np.ndarray, length: int) -> np.ndarray:
        windows = self.windows(length)
        if not len(windows):
            raise ValueError(f"{self.path}: the shards hold no training tokens")
        epochs, places = np.divmod(rows, len(windows))
        return np.array(
            [self._permutation(seed, int(epoch), length)[place] for epoch, place in zip(epochs, places, strict=True)]
        )

    def validation_batches(self, domain: str, length: int, batch_size: int) -> Iterator[np.ndarray]:
        """All windows of a held-out domain in order, ``(<= batch_size, length + 1)`` int64."""
        file = self.validation[domain]
        windows = file.windows(length)
        for start in range(0, len(windows), batch_size):
            indices = np.arange(start, min(start + batch_size, len(windows)))
            yield file.read(windows, indices, padding=self.eos_id)

    def _compute_permutation(self, seed: int, epoch: int, length: int) -> np.ndarray:
        return np.random.default_rng([seed, epoch, length]).permutation(len(self.windows(length)))


def document_ids(tokens: np.ndarray, eos_id: int) -> np.ndarray:
    """Which document of its window each position belongs to, ``(B, T)`` int64; -1 marks padding.

    A document ends with ``eos_id``; an end token that follows an end token is padding.
    """
    is_end = tokens == eos_id
    after_end = np.zeros_like(is_end)
    after_end[:, 1:] = is_end[:, :-1]
    ids = np.cumsum(after_end, axis=1)
    return np.where(is_end & after_end, -1, ids)
