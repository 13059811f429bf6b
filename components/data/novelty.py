"""Diversity control: a text that is too much like an earlier one adds nothing.

Similarity is the Jaccard similarity of 3-word shingles, estimated by MinHash; only texts that share a band of their
signatures are compared, so that a million texts can be watched.
"""

from collections.abc import Sequence

import numpy as np

from components.data.minhash import WordHasher, shingle_hashes, signatures
from components.data.words import comparable_words

SHINGLE, BANDS, ROWS = 3, 32, 4
"""32 bands of 4 propose half of the pairs at similarity 0.38."""


class Novelty:
    """Remembers the texts that were kept."""

    def __init__(self, most_alike: float) -> None:
        self.most_alike = most_alike
        self._hasher = WordHasher()
        self._kept: list[np.ndarray] = []
        self._buckets: dict[tuple[int, bytes], list[int]] = {}

    def sign(self, texts: Sequence[str]) -> np.ndarray:
        """Signatures, (texts, permutations)."""
        words = (comparable_words(text) for text in texts)
        return signatures((shingle_hashes(self._hasher(each), SHINGLE) for each in words), BANDS * ROWS)

    def is_new(self, signature: np.ndarray) -> bool:
        """Whether no text that was kept is more alike than ``most_alike``."""
        near = {index for key in self._keys(signature) for index in self._buckets.get(key, ())}
        return all(float((self._kept[index] == signature).mean()) <= self.most_alike for index in near)

    def keep(self, signature: np.ndarray) -> None:
        for key in self._keys(signature):
            self._buckets.setdefault(key, []).append(len(self._kept))
        self._kept.append(signature)

    @staticmethod
    def _keys(signature: np.ndarray) -> list[tuple[int, bytes]]:
        return [(band, row.tobytes()) for band, row in enumerate(signature.reshape(BANDS, ROWS))]
