"""Gopher's rules on repeated n-grams (Rae et al. 2021, table A1), on integers instead of strings for speed."""

import numpy as np

MIN_REPEATS = 3
"""Occurrences that make an n-gram a pattern. Gopher needs no such limit, since its documents have at least 50 words; in
one of 25 a phrase of two words that comes twice is a fifth of the text."""


def repetition_reason(words: list[str], max_top: tuple[float, ...], max_duplicate: tuple[float, ...]) -> str:
    """The first n-gram rule that the text breaks, or ``""``.

    ``max_top`` bounds the share of characters in the commonest 2-, 3-, 4-gram, ``max_duplicate`` the share of
    characters in 5-, 6-, ... grams that occurred before.
    """
    numbers: dict[str, int] = {}
    ids = np.array([numbers.setdefault(word, len(numbers)) for word in words], dtype=np.uint64)
    lengths = np.array([len(word) for word in words])
    total = int(lengths.sum())
    for n, limit in enumerate(max_top, start=2):
        grams = ngram_hashes(ids, n)
        if len(grams) == 0:
            break
        _, first, counts = np.unique(grams, return_index=True, return_counts=True)
        if counts.max() == 1:
            return ""  # no repeated bigram, so no longer one either
        if counts.max() < MIN_REPEATS:
            break
        characters = np.convolve(lengths, np.ones(n, dtype=int), "valid")[first] * counts * (counts > 1)
        # The commonest n-gram, the longest of them where several are: as Gopher's rule reads.
        if characters[counts == counts.max()].max() > limit * total:
            return f"top {n}-gram"
    for n, limit in enumerate(max_duplicate, start=5):
        grams = ngram_hashes(ids, n)
        _, first = np.unique(grams, return_index=True)
        if len(first) == len(grams):
            return ""  # no repeated n-gram, so no longer one either
        repeats = np.ones(len(grams), dtype=bool)
        repeats[first] = False  # the first occurrence is no repeat
        starts = np.flatnonzero(repeats)
        covered = np.zeros(len(ids) + 1, dtype=np.int64)
        np.add.at(covered, starts, 1)
        np.add.at(covered, starts + n, -1)
        inside = np.cumsum(covered[:-1]) > 0
        if int(lengths[inside].sum()) > limit * total:
            return f"duplicate {n}-grams"
    return ""


def ngram_hashes(ids: np.ndarray, n: int) -> np.ndarray:
    """Hash of every n-gram. ``ids`` (words,) uint64 -> (words - n + 1,) uint64, by polynomial modulo 2^64."""
    if len(ids) < n:
        return ids[:0]
    hashes = np.zeros(len(ids) - n + 1, dtype=np.uint64)
    for offset in range(n):
        hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + ids[offset : len(ids) - n + 1 + offset] + np.uint64(1)
    return hashes
