"""Deduplicate: exact copies by digest, near copies by MinHash over the whole corpus, one document kept of each cluster.

Stage 1 groups texts that are equal but for case, spacing and punctuation. Stage 2 pairs documents whose 3-word
shingles overlap (``minhash.py``), checks each pair's estimated similarity and joins pairs into clusters. The longest
document of a cluster is kept; of nearly equally long ones the earliest, since sources stand in order of preference.
On request the best document is kept instead (``keep_best.py``), and spans of text that several documents share are
cut out of all but the first (``repeated_spans.py``).
"""

import json
import operator
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from components.data.pool import map_shards
from components.stage import Inputs, Run, StageConfig, Summary, effect

if TYPE_CHECKING:
    import numpy as np

    from components.data.documents import Document

MIN_SPAN = 10
"""Words of the shortest span that may be cut."""


class DeduplicateConfig(StageConfig):
    """How alike is a duplicate. The report gives no values."""

    shingle: int = Field(3, ge=1, description="words a shingle; 3 tolerates an edit in every twenty words")
    bands: int = Field(25, ge=1, description="bands of the signature")
    rows: int = Field(5, ge=1, description="entries a band; 25 x 5 proposes half of the pairs at similarity 0.49")
    min_similarity: float = Field(0.6, gt=0, le=1, description="estimated Jaccard similarity of a duplicate pair")
    length_tolerance: float = Field(
        0.1, ge=0, lt=1, description="documents at most this much shorter than the longest count as equally long"
    )
    probes: int = Field(100, ge=0, description="near copies planted to measure recall; never in the output")
    probe_edits: float = Field(0.05, gt=0, lt=1, description="share of a probe's words replaced, dropped or inserted")

    # At their defaults these are not part of the dump, so that cache keys stay as they were before there were any.
    keep: Literal["longest", "quality"] = Field(
        "longest",
        description="which document of a cluster stays: by length, or by the bundled judge's quality score",
        exclude_if=lambda value: value == "longest",
    )
    repeated_span_words: int = Field(
        0,
        ge=0,
        description="spans of so many words that an earlier document has are cut out; 50 in Lee et al. 2022; 0: none",
        exclude_if=operator.not_,
    )

    @model_validator(mode="after")
    def check_threshold(self) -> "DeduplicateConfig":
        if half_similarity(self.bands, self.rows) > self.min_similarity:
            raise ValueError(
                f"bands={self.bands} and rows={self.rows} propose half of the pairs only at similarity "
                f"{half_similarity(self.bands, self.rows):.2f}, above min_similarity={self.min_similarity}: duplicates "
                "would be missed. Take more bands or fewer rows."
            )
        if 0 < self.repeated_span_words < MIN_SPAN:
            raise ValueError(
                f"repeated_span_words: expected 0 or at least {MIN_SPAN}, got {self.repeated_span_words}: shorter "
                "spans are common phrases, and their loss breaks sentences"
            )
        return self


def half_similarity(bands: int, rows: int) -> float:
    """The similarity at which half of all pairs become candidates."""
    return float((1 - 0.5 ** (1 / bands)) ** (1 / rows))


def deduplicate(config: DeduplicateConfig, inputs: Inputs, run: Run) -> Summary:
    """Find clusters over the whole corpus, keep the best of each, in the old order."""
    import numpy as np

    from components.data.dedup_probe import measure
    from components.data.documents import document_files, read_documents, write_documents
    from components.data.near_copies import (
        documents_in,
        exact_pairs,
        is_signed,
        lengths_of,
        near_pairs,
        sign_file,
    )
    from components.data.span_cutter import SpanCutter

    files = document_files(inputs["documents"])
    states = [run.state / file.stem for file in files]
    todo = [(config, *job) for job in zip(files, states, strict=True) if not is_signed(job[1])]
    with run.progress(len(files) + 2, "deduplicate", start=len(files) - len(todo)) as progress:
        for _ in map_shards(sign_file, todo, layout=run.layout):
            progress.advance()
        lengths = lengths_of(states)
        exact = exact_pairs(states)
        near, candidates = near_pairs(states, config.min_similarity)
        progress.advance()
        cluster = connected(len(lengths), np.concatenate([exact, near]))
        if config.keep == "quality":
            from components.data.keep_best import best_by_quality, quality_of

            several = np.bincount(cluster)[cluster] > 1
            keep = best_by_quality(cluster, lengths, quality_of(inputs["documents"].path, several, run.seed))
        else:
            keep = best_of_clusters(cluster, lengths, config.length_tolerance)
        probe = measure(config, inputs["documents"].path, states, run.state / "probes", cluster, keep, run.seed)
        progress.advance()
    cutter = SpanCutter(config.repeated_span_words, files, [documents_in(state) for state in states], keep, run)

    totals: Counter[str] = Counter()
    sources: Counter[str] = Counter()
    languages: Counter[str] = Counter()

    def kept() -> "Iterator[Document]":
        sizes = np.bincount(cluster, minlength=int(cluster.max(initial=-1)) + 1)
        for index, document in enumerate(read_documents(inputs["documents"])):
            size = len(document.text.encode("utf-8"))
            totals.update(documents_in=1, bytes_in=size)
            if not keep[index] or not cutter.cut(index, document):
                continue
            size = len(document.text.encode("utf-8"))
            totals.update(documents_out=1, bytes_out=size)
            sources[document.source] += 1
            languages[document.language] += 1
            if sizes[cluster[index]] > 1:
                document.meta["duplicates"] = str(int(sizes[cluster[index]]) - 1)
            yield document

    write_documents(run.output, kept())
    write_clusters(run.output / "clusters.jsonl", inputs["documents"].path, cluster, keep)
    cutter.write_most_repeated(run.output / "repeated-spans.jsonl")
    copies = len(exact)
    run.info(f"{copies} exact and {len(keep) - int(keep.sum()) - copies} near duplicates of {len(keep)} documents")
    return {
        **dict(sorted(totals.items())),
        "by_source": dict(sorted(sources.items())),
        "by_language": dict(sorted(languages.items())),
        "by_reason": {"exact duplicate": copies, "near duplicate": len(keep) - int(keep.sum()) - copies}
        | cutter.reasons,
        "clusters": int((np.bincount(cluster) > 1).sum()),
        "candidate_pairs": candidates,
        "half_similarity": round(half_similarity(config.bands, config.rows), 4),
        "effects": [effect(**measured) for measured in [*probe, *cutter.effects]],
    }


def connected(documents: int, pairs: "np.ndarray") -> "np.ndarray":
    """Cluster number of every document, (documents,): connected components of the graph of pairs."""
    import numpy as np
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(pairs), dtype=np.int8), (pairs[:, 0], pairs[:, 1])), shape=(documents, documents))
    return connected_components(graph, directed=False)[1]


def best_of_clusters(cluster: "np.ndarray", lengths: "np.ndarray", tolerance: float) -> "np.ndarray":
    """Which documents to keep, (documents,) bool: in each cluster the first that is nearly as long as the longest."""
    import numpy as np

    longest = np.zeros(int(cluster.max(initial=-1)) + 1, dtype=np.int64)
    np.maximum.at(longest, cluster, lengths)
    eligible = np.flatnonzero(lengths >= (1 - tolerance) * longest[cluster])
    _, first = np.unique(cluster[eligible], return_index=True)
    keep = np.zeros(len(lengths), dtype=bool)
    keep[eligible[first]] = True
    return keep


def write_clusters(file: Path, corpus: Path, cluster: "np.ndarray", keep: "np.ndarray") -> None:
    """One line for each cluster of several documents: the kept id and the ids it stands for."""
    import numpy as np

    from components.data.documents import read_documents

    big = np.bincount(cluster)[cluster] > 1
    members: dict[int, list[str]] = {}
    chosen: dict[int, str] = {}
    for index, document in enumerate(read_documents(corpus)):
        if keep[index] and big[index]:
            chosen[int(cluster[index])] = document.id
        elif big[index]:
            members.setdefault(int(cluster[index]), []).append(document.id)
    with file.open("w", encoding="utf-8") as out:
        for number in sorted(members):
            out.write(json.dumps({"kept": chosen[number], "dropped": members[number]}) + "\n")
