"""The contamination rule of the report: a training sequence that holds a test sequence is not trained on.

A training sequence s_t goes when for a test sequence s_e ``LCS(s_t, s_e) >= 13`` and
``LCS >= 0.6 * min(len(s_t), len(s_e))``, where LCS is the length of the longest common subsequence of words.

Candidates are found through shared 13-grams. What is compared with a test sequence is then not a whole document but
the window of it around the shared 13-gram, as long as the test sequence and a quarter more on either side: in ten
thousand words almost any question of forty is a subsequence by chance, in sixty it is one only if it is there.
A document shorter than the window is compared as a whole.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from rapidfuzz.distance import LCSseq

from components.data.minhash import WordHasher
from components.data.words import comparable_words

MIN_COMMON = 13
MIN_SHARE = 0.6
SLACK = 0.25
"""Widening of the window on either side, as a share of the test sequence: room for insertions."""


@dataclass(frozen=True)
class Match:
    """The evaluation item that a document holds: common words, of how many at most."""

    item: str
    common: int
    shorter: int


def contaminates(train: Sequence[str], test: Sequence[str]) -> bool:
    """Whether the rule holds for two sequences of words as they are, without windows."""
    return common_words(train, test) > 0


def common_words(train: Sequence[str], test: Sequence[str]) -> int:
    """LCS length if it breaks the rule, else 0. Bit-parallel (Hyyrö 2004): 64 words of one sequence at a time."""
    shorter = min(len(train), len(test))
    needed = max(MIN_COMMON, int(np.ceil(MIN_SHARE * shorter - 1e-9)))
    if shorter < needed:
        return 0
    return int(LCSseq.similarity(train, test, score_cutoff=needed))


class EvaluationIndex:
    """The 13-grams of all evaluation items, to look documents up in."""

    def __init__(self, items: Iterable[tuple[str, str]]) -> None:
        """``items``: name and text of every evaluation item. Items under 13 words cannot match and are left out."""
        self.hasher = WordHasher()
        self.names: list[str] = []
        self.words: list[list[str]] = []
        self.too_short = 0
        hashes, owners, positions = [], [], []
        for name, text in items:
            words = comparable_words(text)
            if len(words) < MIN_COMMON:
                self.too_short += 1
                continue
            grams = gram_hashes(self.hasher(words))
            hashes.append(grams)
            owners.append(np.full(len(grams), len(self.names)))
            positions.append(np.arange(len(grams)))
            self.names.append(name)
            self.words.append(words)
        empty = np.zeros(0, dtype=np.int64)
        grams = np.concatenate(hashes) if hashes else np.zeros(0, dtype=np.uint64)
        order = np.argsort(grams, kind="stable")
        self.grams = grams[order]
        self.owners = (np.concatenate(owners) if owners else empty)[order]
        self.positions = (np.concatenate(positions) if positions else empty)[order]

    def shares_gram(self, words: list[str]) -> bool:
        """Whether any 13-gram of the document is in an item: the plain 13-gram filter, as a baseline."""
        grams = gram_hashes(self.hasher(words))
        low = np.searchsorted(self.grams, grams, side="left")
        return bool((np.searchsorted(self.grams, grams, side="right") > low).any())

    def match(self, words: list[str]) -> Match | None:
        """The first item, in order of the document's 13-grams, that the document holds; or None."""
        if len(self.grams) == 0:
            return None
        grams = gram_hashes(self.hasher(words))
        low = np.searchsorted(self.grams, grams, side="left")
        high = np.searchsorted(self.grams, grams, side="right")
        tried: set[tuple[int, int]] = set()
        for start in np.flatnonzero(high > low):
            for entry in range(low[start], high[start]):
                owner, position = int(self.owners[entry]), int(self.positions[entry])
                aligned = int(start) - position  # where the item's first word would stand in the document
                if (owner, aligned) in tried:
                    continue  # the next gram of a match that was looked at already
                tried.add((owner, aligned))
                window = words_around(words, aligned, len(self.words[owner]))
                common = common_words(window, self.words[owner])
                if common:
                    return Match(self.names[owner], common, min(len(window), len(self.words[owner])))
        return None


def words_around(words: list[str], aligned: int, length: int) -> list[str]:
    """The window of a document in which a test sequence of ``length`` words would stand at ``aligned``."""
    slack = max(MIN_COMMON, int(SLACK * length))
    return words[max(0, aligned - slack) : aligned + length + slack]


def gram_hashes(word_hashes: np.ndarray) -> np.ndarray:
    """Hash of every 13-gram in order: (words,) uint64 -> (words - 12,) uint64."""
    count = len(word_hashes) - MIN_COMMON + 1
    if count <= 0:
        return np.zeros(0, dtype=np.uint64)
    hashes = np.zeros(count, dtype=np.uint64)
    for offset in range(MIN_COMMON):
        hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + word_hashes[offset : count + offset]
    return hashes
