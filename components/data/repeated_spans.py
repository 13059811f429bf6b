"""Spans of words that stand in several documents, such as licence headers and cookie notices: found exactly, cut once.

After Lee et al. 2022 (arXiv 2107.06499), who cut every span of 50 tokens that was seen before: all windows of ``n``
words are hashed, equal hashes are brought together over the whole corpus, and of each window the first document keeps
it. A hash has 64 bits: among a billion windows one false match is to be expected once in forty corpora.

Words are those of the text as it stands, without punctuation and spacing; a Chinese or Japanese character is a word.
Repeats within a document are left to the filters. Source code is left alone: without a span it may not be code.

The parts: ``sign_windows`` (a map over files), ``merge`` (a shuffle, by ranges of hashes so that memory is bounded),
``find_cuts`` (a map), ``without`` (the cut).
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from components.data.columns import load, save
from components.data.documents import Document, read_file
from components.data.minhash import WordHasher, shingle_hashes

WINDOWS_AT_ONCE = 1 << 24
"""Windows whose hashes ``merge`` holds at a time: 24 bytes each."""
_WORD = re.compile(
    r"[\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3]"
    r"|[^\W_\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3]+"
)
_CLOSING = re.compile(r"[^\w\s]*")

Span = tuple[int, int]
"""First character and the one after the last."""
SpanJob = tuple[int, Path, int, np.ndarray, Path]
"""Words of a span; file; corpus index of its first document; which of its documents count (bool); result."""


def sign_windows(job: SpanJob) -> None:
    """Every window of a file once, by hash: ``<result>-hashes.npy``, its first document, whether it has several."""
    n, file, first, keep, result = job
    hasher = WordHasher()
    hashes, owners = [np.zeros(0, dtype=np.uint64)], [np.zeros(0, dtype=np.int64)]
    for row, document in enumerate(read_file(file)):
        if keep[row] and (found := windows(document, n, hasher)) is not None:
            hashes.append(found)
            owners.append(np.full(len(found), first + row))
    unique, owner, several = group(np.concatenate(hashes), np.concatenate(owners))
    save(result, hashes=unique, owners=owner, several=several)


def merge(results: Sequence[Path], target: Path) -> int:
    """Windows of several documents over all files, with the first of these: ``target``; how many there are."""
    parts = [load(result, "hashes", "owners", "several") for result in results]
    total = sum(len(part[0]) for part in parts)
    ranges = total // WINDOWS_AT_ONCE + 1
    edges = np.array([number * (2**64 // ranges) for number in range(1, ranges)], dtype=np.uint64)
    cuts = [np.r_[0, np.searchsorted(part[0], edges), len(part[0])] for part in parts]
    hashes, owners = [], []
    for number in range(ranges):
        chosen = [slice(int(cut[number]), int(cut[number + 1])) for cut in cuts]
        columns = [np.concatenate([part[c][s] for part, s in zip(parts, chosen, strict=True)]) for c in range(3)]
        unique, owner, several = group(*columns)
        hashes.append(unique[several])
        owners.append(owner[several])
    save(target, hashes=np.concatenate(hashes), owners=np.concatenate(owners))
    return sum(map(len, hashes))


def find_cuts(job: tuple[SpanJob, Path]) -> None:
    """Spans of a file that an earlier document has: rows (document, start, end), characters, in ``<result>-cuts``."""
    (n, file, first, keep, result), target = job
    repeated, owners = load(target, "hashes", "owners")
    hasher = WordHasher()
    rows: list[tuple[int, int, int]] = []
    for row, document in enumerate(read_file(file)):
        if not keep[row] or not len(repeated) or (found := windows(document, n, hasher)) is None:
            continue
        at = np.minimum(np.searchsorted(repeated, found), len(repeated) - 1)
        seen = (repeated[at] == found) & (owners[at] < first + row)
        rows += [(first + row, *span) for span in spans(document.text, np.flatnonzero(seen), n)]
    save(result, cuts=np.array(rows, dtype=np.int64).reshape(-1, 3))


def windows(document: Document, n: int, hasher: WordHasher) -> np.ndarray | None:
    """Hash of every window of n words, (words - n + 1,); None for code and shorter texts."""
    if document.language == "code":
        return None
    words = hasher(_WORD.findall(document.text))
    return shingle_hashes(words, n) if len(words) >= n else None


def group(hashes: np.ndarray, owners: np.ndarray, several: np.ndarray | None = None) -> tuple[np.ndarray, ...]:
    """Distinct hashes in order, the lowest owner of each, and whether it has several (or is ``several`` already)."""
    order = np.lexsort((owners, hashes))
    hashes, owners = hashes[order], owners[order]
    starts = np.flatnonzero(np.r_[True, hashes[1:] != hashes[:-1]]) if len(hashes) else np.zeros(0, dtype=np.int64)
    ends = np.r_[starts[1:], len(hashes)]
    more = owners[starts] != owners[ends - 1] if len(starts) else np.zeros(0, dtype=bool)
    if several is not None and len(starts):
        more |= np.logical_or.reduceat(several[order], starts)
    return hashes[starts], owners[starts], more


def spans(text: str, found: np.ndarray, n: int) -> Iterator[Span]:
    """The stretches of text that the windows beginning at the words ``found`` cover together, to the full stop."""
    if not len(found):
        return
    places = [match.span() for match in _WORD.finditer(text)]
    breaks = np.flatnonzero(np.diff(found) > n)
    for begin, end in zip(np.r_[found[0], found[breaks + 1]], np.r_[found[breaks], found[-1]], strict=True):
        last = places[end + n - 1][1]
        yield places[begin][0], last + len(_CLOSING.match(text, last)[0])  # type: ignore[index]


def without(text: str, cuts: Sequence[Span]) -> str:
    """The text without these spans, and without the empty lines that they leave."""
    kept, at = [], 0
    for start, end in cuts:
        kept.append(text[at:start])
        at = end
    rest = re.sub(r"[ \t]+\n", "\n", "".join([*kept, text[at:]]))
    return re.sub(r"\n{3,}", "\n\n", rest).strip()


def count_words(text: str) -> int:
    return sum(1 for _ in _WORD.finditer(text))


def read_cuts(results: Sequence[Path]) -> dict[int, list[Span]]:
    """Document (index in the corpus) -> its spans in order."""
    found: dict[int, list[Span]] = {}
    for result in results:
        for document, start, end in load(result, "cuts")[0].tolist():
            found.setdefault(document, []).append((start, end))
    return found
