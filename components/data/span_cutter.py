"""The cut of repeated spans as the ``deduplicate`` stage does it: what is cut where, how much, and the worst of it."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from components.data.columns import column
from components.data.documents import Document, document_id
from components.data.pool import map_shards
from components.data.repeated_spans import (
    Span,
    SpanJob,
    count_words,
    find_cuts,
    merge,
    read_cuts,
    sign_windows,
    without,
)
from components.stage import Run

MOST_REPEATED = 20
"""Spans to look at."""
SPANS_COUNTED = 100_000
"""Different spans that are counted; the rarer half is then forgotten."""


class SpanCutter:
    """Knows the spans to cut of every kept document; with ``words`` = 0 it cuts none."""

    def __init__(self, words: int, files: Sequence[Path], counts: Sequence[int], keep: np.ndarray, run: Run) -> None:
        """``counts``: documents of each file; ``keep`` (documents,): those that are left of the whole corpus."""
        self.words = words
        self._cuts: dict[int, list[Span]] = {}
        self._spans: Counter[str] = Counter()
        self._total = self._cut = self._dropped = 0
        if words:
            self._cuts = find(words, files, counts, keep, run)

    def cut(self, index: int, document: Document) -> bool:
        """Cut the document's spans; False where fewer words than a span's are left of it."""
        if not self.words:
            return True
        self._total += len(document.text)
        spans = self._cuts.get(index)
        if not spans:
            return True
        for start, end in spans:
            self._spans[document.text[start:end][:400]] += 1
        if len(self._spans) > SPANS_COUNTED:
            self._spans = Counter(dict(self._spans.most_common(SPANS_COUNTED // 2)))
        rest = without(document.text, spans)
        self._cut += len(document.text) - len(rest)
        if count_words(rest) < self.words:
            self._dropped += 1
            return False
        document.meta["cut_characters"] = str(len(document.text) - len(rest))
        document.text = rest
        document.id = document_id(rest)
        return True

    @property
    def reasons(self) -> dict[str, int]:
        return {"only repeated spans": self._dropped} if self.words else {}

    @property
    def effects(self) -> list[dict[str, Any]]:
        """Keyword arguments of one effect."""
        if not self.words:
            return []
        return [{
            "name": "repeated text cut", "value": self._cut / max(1, self._total), "baseline": 0.0,
            "note": f"characters in spans of {self.words} words or more that an earlier document has, in "
            f"{len(self._cuts):,} documents; baseline: whole documents only",
        }]  # fmt: skip

    def write_most_repeated(self, file: Path) -> None:
        """The spans that were cut most often, beginnings of 400 characters; no file where nothing is to be cut."""
        if self.words:
            rows = sorted(self._spans.items(), key=lambda item: (-item[1], item[0]))[:MOST_REPEATED]
            lines = [json.dumps({"cut": times, "text": text}, ensure_ascii=False) + "\n" for text, times in rows]
            file.write_text("".join(lines), encoding="utf-8")


def find(words: int, files: Sequence[Path], counts: Sequence[int], keep: np.ndarray, run: Run) -> dict[int, list[Span]]:
    """Spans to cut of every document (its index in the corpus). What is done lies in ``run.state``."""
    firsts = np.r_[0, np.cumsum(counts)].tolist()
    jobs: list[SpanJob] = [
        (words, file, firsts[number], keep[firsts[number] : firsts[number + 1]], run.state / f"spans-{file.stem}")
        for number, file in enumerate(files)
    ]
    results = [job[-1] for job in jobs]
    target = run.state / "spans-repeated"
    unsigned = [job for job in jobs if not column(job[-1], "several").is_file()]
    with run.progress(2 * len(jobs), "repeated spans", unit="file", start=len(jobs) - len(unsigned)) as progress:
        for _ in map_shards(sign_windows, unsigned, layout=run.layout):
            progress.advance()
        if not column(target, "owners").is_file():
            merge(results, target)
        for _ in map_shards(find_cuts, [(job, target) for job in jobs], layout=run.layout):
            progress.advance()
    return read_cuts(results)
