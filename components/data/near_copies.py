"""Copies and near copies over a whole corpus: files are signed apart, signatures lie on disk, a shuffle finds pairs.

``sign_file`` is a map over files. ``exact_pairs`` and ``near_pairs`` bring equal keys of all files together, one band
of the signatures after another and, of a large corpus, one range of keys after another. In memory are the keys of one
range and the pairs that were found: what grows with a corpus without copies is a few bytes a document.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from components.data.columns import column, load, save
from components.data.documents import read_file
from components.data.minhash import WordHasher, bucket_pairs, distinct, shingle_hashes, signatures
from components.data.words import comparable_words

if TYPE_CHECKING:
    from components.data.deduplicate import DeduplicateConfig

KEYS_AT_ONCE = 1 << 18
"""Keys that are sorted together, of 20 bytes for a band of five entries."""
MOST_RANGES = 16
"""Each range reads all keys: of a corpus of thousands of files more memory is better than more reading."""


def sign_file(job: tuple["DeduplicateConfig", Path, Path]) -> None:
    """Digest, length and MinHash signature of every document of a file, into columns at ``state``."""
    config, file, state = job
    hasher = WordHasher()
    digests: list[bytes] = []
    lengths: list[int] = []

    def shingles() -> Iterator[np.ndarray]:
        for document in read_file(file):
            words = comparable_words(document.text)
            # Code without its punctuation is not the same code; a text of punctuation only is compared as it is.
            exact = " ".join(document.text.split()) if document.language == "code" or not words else " ".join(words)
            digests.append(hashlib.sha256(exact.encode()).digest()[:16])
            lengths.append(len(document.text))
            yield shingle_hashes(hasher(words), config.shingle)

    signature = signatures(shingles(), config.bands * config.rows)
    save_signatures(state, signature, config.bands, digests, lengths)


def save_signatures(
    state: Path, signature: np.ndarray, bands: int, digests: Sequence[bytes], lengths: Sequence[int]
) -> None:
    """``signature`` (documents, permutations) is stored by band, (bands, documents, rows), as it is read."""
    rows = signature.shape[1] // bands
    save(
        state,
        digests=np.frombuffer(b"".join(digests), dtype="<u8").reshape(len(digests), 2),
        lengths=np.array(lengths, dtype=np.int64),
        signatures=np.ascontiguousarray(
            signature.reshape(-1, bands, rows).swapaxes(0, 1)
        ),  # last: a whole state has it
    )


def is_signed(state: Path) -> bool:
    """Whether ``sign_file`` has done this file already."""
    return column(state, "signatures").is_file()


def lengths_of(states: Sequence[Path]) -> np.ndarray:
    """Characters of every document, (documents,)."""
    return np.concatenate([load(state, "lengths")[0] for state in states])


def exact_pairs(states: Sequence[Path]) -> np.ndarray:
    """Each document with the first of equal digest: (pairs, 2), a pair for each copy."""
    ranges = ranges_for(states)
    return distinct(
        bucket_pairs(*keys, previous=False)
        for keys in (digests_in(states, part, ranges) for part in range(ranges))
    )  # fmt: skip


def near_pairs(states: Sequence[Path], minimum: float, since: int = 0) -> tuple[np.ndarray, int]:
    """Pairs (i, j), i < j, that share a band and agree in at least ``minimum`` of their signatures: (pairs, 2), and how
    many shared a band. Only those with ``j >= since``, which costs less than all."""
    candidates = distinct(band_pairs(states, band, since) for band in range(bands_of(states[0])))
    return candidates[similarities(states, candidates) >= minimum], len(candidates)


def band_pairs(states: Sequence[Path], band: int, since: int = 0) -> np.ndarray:
    """Distinct pairs that share this band, of each document with its bucket's first and the one before it."""
    ranges = ranges_for(states)
    pairs = distinct(bucket_pairs(*band_in(states, band, part, ranges, since)) for part in range(ranges))
    return pairs[pairs[:, 1] >= since]


def similarities(states: Sequence[Path], pairs: np.ndarray) -> np.ndarray:
    """Estimated Jaccard similarity of every pair, (pairs,) float64. Of each band only documents in pairs are read."""
    involved, places = np.unique(pairs, return_inverse=True)
    places = places.reshape(-1, 2)
    bounds = np.cumsum([0, *(documents_in(state) for state in states)])
    cuts = np.searchsorted(involved, bounds)
    agree = np.zeros(len(pairs), dtype=np.int64)
    bands = bands_of(states[0])
    rows = 0
    for band in range(bands):
        block = np.concatenate([
            load(state, "signatures")[0][band][involved[low:high] - start]
            for state, start, low, high in zip(states, bounds, cuts, cuts[1:], strict=False)
        ])  # fmt: skip
        rows = block.shape[1]
        agree += (block[places[:, 0]] == block[places[:, 1]]).sum(axis=1)
    return agree / (bands * rows)


def digests_in(states: Sequence[Path], part: int, ranges: int) -> tuple[np.ndarray, np.ndarray]:
    """Digests of the range, (documents, 2), and whose they are."""
    return _gathered((load(state, "digests")[0] for state in states), part, ranges)


def band_in(states: Sequence[Path], band: int, part: int, ranges: int, since: int) -> tuple[np.ndarray, np.ndarray]:
    """Entries of a band in the range, (documents, rows), and whose they are; only those that a document from
    ``since`` on may share."""
    keys, rows = _gathered((load(state, "signatures")[0][band] for state in states), part, ranges)
    if since:
        wanted = np.isin(keys[:, 0], keys[rows >= since, 0])
        keys, rows = keys[wanted], rows[wanted]
    return keys, rows


def _gathered(blocks: Iterator[np.ndarray], part: int, ranges: int) -> tuple[np.ndarray, np.ndarray]:
    keys, rows, first = [], [], 0
    for block in blocks:
        # By the low bits: the high ones of a minimum are mostly zero.
        chosen = np.flatnonzero(block[:, 0] % ranges == part) if ranges > 1 else np.arange(len(block))
        keys.append(block[chosen])
        rows.append(first + chosen)
        first += len(block)
    return np.concatenate(keys), np.concatenate(rows)


def ranges_for(states: Sequence[Path]) -> int:
    """Into how many ranges of keys a corpus is cut."""
    return max(1, min(MOST_RANGES, -(-sum(map(documents_in, states)) // KEYS_AT_ONCE)))


def documents_in(state: Path) -> int:
    return len(load(state, "lengths")[0])


def bands_of(state: Path) -> int:
    return len(load(state, "signatures")[0])
