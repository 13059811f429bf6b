"""The two mixtures of an ablation and the text that both are judged on.

``raw`` is the corpus as it was ingested, at its natural shares: duplicates taken out, nothing filtered. Its text is
normalised and scrubbed as ``clean`` does it, so that a difference is due to which documents there are and how often.
``rebalanced`` is what cleaning, deduplication, quality scoring and the mixture solver make of the same corpus, without
synthetic documents. Labelled junk, which is ingested to measure the filters with, is in neither.

Held out is a share of the documents that all filters let pass, a larger one of small domains, so that each has enough
to measure on; a document of either side that is a duplicate or a near duplicate of one of them is not trained on.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.data.clean import CleanConfig, language_of
from components.data.deduplicate import DeduplicateConfig, best_of_clusters, connected
from components.data.documents import (
    Document,
    document_files,
    document_id,
    is_held_out,
    read_documents,
    read_file,
    write_documents,
    write_file,
)
from components.data.near_copies import documents_in, exact_pairs, is_signed, lengths_of, near_pairs, sign_file
from components.data.pool import map_shards
from components.stage import StageError

if TYPE_CHECKING:
    from components.data.mixture import MixtureConfig

MOST_HELD_OUT = 0.2
"""Of a domain's documents."""
LOST = "(dropped by the filters)"
"""Stands in the place of a domain for held-out documents that only the raw side has."""


@dataclass(frozen=True)
class Corpora:
    """What the arms are made of."""

    ingested: Path
    filtered: Path  # with domains and quality
    clean: CleanConfig
    deduplicate: DeduplicateConfig
    held_out_share: float
    held_out_documents: int = 0
    """Wanted of every domain, up to ``MOST_HELD_OUT`` of it."""


def hold_out(corpora: Corpora, folder: Path) -> Path:
    """Write the held-out documents that all filters let pass; returns the folder, as all writers here do."""

    counts = Counter(document.domain for document in read_documents(corpora.filtered))
    shares = {
        domain: max(corpora.held_out_share, min(MOST_HELD_OUT, corpora.held_out_documents / count))
        for domain, count in counts.items()
    }

    def chosen() -> Iterator[Document]:
        return (d for d in read_documents(corpora.filtered) if is_held_out(d.id, shares[d.domain]))

    if not any(True for _ in chosen()):
        raise StageError(f"{corpora.filtered}: nothing is held out; raise shards.held_out_share")
    return _once(folder, chosen)


def rebalanced(
    corpora: Corpora, mixture: "MixtureConfig", seed: int, held_out: Path, folder: Path
) -> tuple[Path, dict[str, Any]]:
    """Write the filtered documents with the solver's copies; also the solver's shares."""
    from components.data.mixture_solver import choose, document_table

    left_out = {document.id for document in read_documents(held_out)}

    def documents() -> Iterator[Document]:
        return (d for d in read_documents(corpora.filtered) if d.id not in left_out)

    table = document_table(documents())
    if table.empty:
        raise StageError(f"{corpora.filtered}: nothing is left to train on; lower shards.held_out_share")
    facts = choose(table, mixture, seed)

    def mixed() -> Iterator[Document]:
        for document, copies in zip(documents(), table["copies"].tolist(), strict=True):
            if copies:
                document.copies = copies
                yield document

    return _once(folder, mixed), facts


def raw(corpora: Corpora, held_out: Path, folder: Path) -> Path:
    """Write the raw documents; those of them that would be held out and that the filters drop go to ``held_out``."""
    treated = folder.with_name("treated")
    jobs = [(corpora.clean, file, treated / file.name) for file in document_files(corpora.ingested)]
    treated.mkdir(parents=True, exist_ok=True)
    list(map_shards(treat_file, [job for job in jobs if not job[2].is_file()]))
    keep, passed = _distinct(corpora, treated, held_out)

    def kept() -> Iterator[Document]:
        for document, stays in zip(read_documents(treated), keep, strict=True):
            if stays and not is_held_out(document.id, corpora.held_out_share):
                yield document

    def lost() -> Iterator[Document]:
        for document, stays, fine in zip(read_documents(treated), keep, passed, strict=True):
            if stays and not fine and is_held_out(document.id, corpora.held_out_share):
                document.domain = LOST
                yield document

    _once(held_out.with_name("lost"), lost)
    return _once(folder, kept)


def foreign(corpora: Corpora, corpus: Path, held_out: Path, folder: Path) -> Path:
    """Write any other corpus or mixture as it is, but for what is held out and its near duplicates."""
    spoiled = _relatives(corpora, corpus, held_out)

    def kept() -> Iterator[Document]:
        for document, gone in zip(read_documents(corpus), spoiled, strict=True):
            if not gone and not is_held_out(document.id, corpora.held_out_share):
                yield document

    return _once(folder, kept)


def treat_file(job: tuple[CleanConfig, Path, Path]) -> None:
    """One ingested file, its texts treated as ``clean`` treats them, none dropped but the empty and labelled junk."""
    from components.data.normalize import normalize
    from components.data.personal import scrub

    config, source, target = job
    documents = []
    for document in read_file(source):
        text = normalize(document.text, code=document.language == "code")
        if not text or document.meta.get("label") == "junk":
            continue
        document.language = language_of(text, document.language, config)
        document.text = scrub(text, document.language)
        document.id = document_id(document.text)
        documents.append(document)
    write_file(target, documents)


def _distinct(corpora: Corpora, corpus: Path, held_out: Path) -> tuple[np.ndarray, np.ndarray]:
    """Of each document of ``corpus``: whether it stays, as the best of its cluster and no relative of a held-out one,
    and whether its cluster has a document that all filters let pass. Both (documents,) bool."""
    cluster, lengths, first = _clusters(corpora, corpus, held_out)
    own = cluster[first:]
    keep = best_of_clusters(own, lengths[first:], corpora.deduplicate.length_tolerance)
    passed = {document.id for document in read_documents(corpora.filtered)}
    known = np.array([document.id in passed for document in read_documents(corpus)], dtype=bool)
    return keep & ~np.isin(own, cluster[:first]), np.isin(own, own[known])


def _relatives(corpora: Corpora, corpus: Path, held_out: Path) -> np.ndarray:
    """Which documents of ``corpus`` are in a cluster with a held-out one, (documents,) bool."""
    cluster, _, first = _clusters(corpora, corpus, held_out)
    return np.isin(cluster[first:], cluster[:first])


def _clusters(corpora: Corpora, corpus: Path, held_out: Path) -> tuple[np.ndarray, np.ndarray, int]:
    """Cluster and length of the held-out documents and then of ``corpus``, and how many the held-out ones are."""
    files = [*document_files(held_out), *document_files(corpus)]
    states = [file.with_suffix("") for file in document_files(held_out)]
    states += [held_out.with_name(f"{corpus.name}-{file.stem}") for file in document_files(corpus)]
    jobs = [(corpora.deduplicate, file, state) for file, state in zip(files, states, strict=True)]
    list(map_shards(sign_file, [job for job in jobs if not is_signed(job[2])]))
    near, _ = near_pairs(states, corpora.deduplicate.min_similarity)
    lengths = lengths_of(states)
    first = sum(documents_in(state) for state, file in zip(states, files, strict=True) if file.parent == held_out)
    return connected(len(lengths), np.concatenate([exact_pairs(states), near])), lengths, first


def _once(folder: Path, documents: Any) -> Path:
    """Write a corpus unless a killed run has written it whole already."""
    if not folder.is_dir():
        temporary = folder.with_name(folder.name + ".partial")
        if temporary.is_dir():
            for file in temporary.iterdir():
                file.unlink()
        write_documents(temporary, documents())
        temporary.replace(folder)
    return folder
