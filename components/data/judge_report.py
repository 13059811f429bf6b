"""What the quality judge is worth on a corpus, beyond what its stage reports.

- agreement with the judge's held-out labels, by dimension and language;
- agreement with labels that others have given: junk against real text, by language, and spam against ham;
- drift: how far the scores of a source or language lie from the corpus's own, where a threshold means something else;
- what the judge would keep that the heuristic filters drop, and the reverse, over all that was ingested, with samples.

The judge is fitted again, exactly as the ``quality`` stage fits it. Nothing is written but the report.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from components.data.clean import CleanConfig, clean_document, language_of
from components.data.documents import Document, is_held_out, read_documents
from components.data.features import EXCERPT
from components.data.normalize import normalize
from components.data.quality import QualityConfig
from components.data.quality_judges import MEASURED_SHARE
from components.data.quality_model import BATCH, Judge, fit_judge, labels_of
from components.data.quality_scoring import auc, auc_interval, sample_documents
from components.data.reading import documents_of
from components.data.sources import Source
from components.stage import Run

LEAST = 20
"""Texts of either kind below which no agreement is reported."""
BINS = 10
"""Of the population stability index: tenths of the corpus's scores."""
SAMPLES = 20
Group = Callable[[Document], str]


def judge_report(
    config: QualityConfig, cleaning: CleanConfig, ingested: Path, documents: Path, known: Sequence[Source], base: Path,
    run: Run,
) -> dict[str, Any]:  # fmt: skip
    """``documents`` are what the quality stage reads, ``ingested`` what the filters read; ``known`` are sources from
    ``base``, spam where their names start so. Agreement is an area under the ROC curve."""
    with threadpool_limits(1), run.progress(4, "judge") as progress:
        judge = fit(config, documents, run)
        progress.advance()
        scores, sources, languages = judge_all(judge, documents)
        threshold = float(np.quantile(scores, 1 - config.keep_share))
        progress.advance()
        table, samples, junk = against_heuristics(judge, threshold, ingested, cleaning)
        progress.advance()
        labelled = [d for source in known for d in documents_of(source, base, lambda _: None)]
        agreements = [
            *known_labels(judge, "junk", "real text", junk, held_out_documents(documents), threshold, run.seed),
            *known_labels(
                judge, "spam", "ham", [d for d in labelled if d.source.startswith("spam")],
                [d for d in labelled if not d.source.startswith("spam")], threshold, run.seed,
            ),
        ]  # fmt: skip
        progress.advance()
    return {
        "judge": config.judge,
        "documents": len(scores),
        "threshold": round(threshold, 4),
        "agreement": agreement(judge, run.seed),
        "known": agreements,
        "drift": [*drift("source", sources, scores), *drift("language", languages, scores)],
        "heuristics": table,
        "samples": samples,
    }


def fit(config: QualityConfig, documents: Path, run: Run) -> Judge:
    """As the ``quality`` stage fits it: same sample, same labels."""
    sample = sample_documents(read_documents(documents), 8 * config.judged_documents, run.seed)
    return fit_judge(config, sample, labels_of(config, sample, random.Random(f"{run.seed}-quality"), run))


def judge_all(judge: Judge, corpus: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Score, source and language of every document, each (documents,)."""
    scores, sources, languages = [], [], []
    for batch in batches(read_documents(corpus)):
        scores.append(judge.overall(batch))
        sources += [document.source for document in batch]
        languages += [document.language for document in batch]
    return np.concatenate(scores), np.array(sources), np.array(languages)


def agreement(judge: Judge, seed: int) -> list[dict[str, Any]]:
    """A row for each dimension and language that has enough held-out labels of both kinds; chance is 0.5."""
    rows = []
    for number, (dimension, (targets, scores, languages)) in enumerate(judge.held_out.items()):
        for language in [str(name) for name in np.unique(languages)]:
            chosen = languages == language
            good = int(targets[chosen].sum())
            if min(good, int(chosen.sum()) - good) >= LEAST:
                low, high = auc_interval(targets[chosen], scores[chosen], [seed, number])
                rows.append({
                    "dimension": dimension, "language": language, "texts": int(chosen.sum()),
                    "auc": auc(targets[chosen], scores[chosen]), "low": 0.5 + low, "high": 0.5 + high,
                })  # fmt: skip
    return rows


def known_labels(
    judge: Judge, bad: str, good: str, worthless: Sequence[Document], fine: Sequence[Document], threshold: float,
    seed: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """A row for each language of the good texts (bad ones may have none), beside the share of letters as a score."""
    rows: list[dict[str, Any]] = []
    for language in sorted({document.language for document in fine}):
        mine = [document for document in fine if document.language == language]
        if min(len(mine), len(worthless)) < LEAST:
            continue
        texts = [*mine, *worthless]
        is_good = np.arange(len(texts)) < len(mine)
        scores = judge.overall(texts)
        low, high = auc_interval(is_good, scores, [seed, len(rows)])
        rows.append({
            "name": f"{bad} against {good}", "language": language, "good": len(mine), "bad": len(worthless),
            "auc": auc(is_good, scores), "low": 0.5 + low, "high": 0.5 + high,
            "letters_auc": auc(is_good, np.array([letters(document.text) for document in texts])),
            "bad_below": float((scores[~is_good] < threshold).mean()),
            "good_below": float((scores[is_good] < threshold).mean()),
        })  # fmt: skip
    return rows


def drift(kind: str, groups: np.ndarray, scores: np.ndarray) -> list[dict[str, Any]]:
    """Population stability index of each group's scores against the corpus's, the largest first.

    Sum of (p - q) ln(p / q) over tenths of the corpus; by custom under 0.1 is none, over 0.25 a lot.
    """
    edges = np.quantile(scores, np.linspace(0, 1, BINS + 1)[1:-1])

    def shares(values: np.ndarray) -> np.ndarray:
        counts = np.bincount(np.searchsorted(edges, values), minlength=BINS)
        return (counts + 0.5) / (len(values) + 0.5 * BINS)  # no share is zero

    expected = shares(scores)
    rows = []
    for group in [str(name) for name in np.unique(groups)]:
        mine = scores[groups == group]
        if len(mine) >= LEAST:
            found = shares(mine)
            rows.append({
                "kind": kind, "name": group, "documents": len(mine), "mean": float(mine.mean()),
                "index": float(((found - expected) * np.log(found / expected)).sum()),
            })  # fmt: skip
    return sorted(rows, key=lambda row: -row["index"])


def against_heuristics(
    judge: Judge, threshold: float, ingested: Path, cleaning: CleanConfig
) -> tuple[list[dict[str, Any]], dict[str, list[dict[str, Any]]], list[Document]]:
    """Documents that both, one or none of judge and filters keep, by language; samples of both disagreements; the
    labelled junk, which is in neither. Texts are judged as normalised, and filtered as ``clean`` does it."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    samples: dict[str, list[dict[str, Any]]] = {"only the judge": [], "only the filters": []}
    seen: Counter[str] = Counter()
    rng = random.Random(0)
    junk: list[Document] = []
    for batch in batches(read_documents(ingested)):
        real = []
        for document in batch:
            if document.meta.get("label") == "junk":
                junk.append(document)
            elif text := normalize(document.text, code=document.language == "code"):
                document.text, document.language = text, language_of(text, document.language, cleaning)
                real.append(document)
        if not real:
            continue
        for document, score in zip(real, judge.overall(real).tolist(), strict=True):
            text, language = document.text[:400], document.language
            reason = clean_document(document, cleaning)[1]
            verdict = verdict_of(score >= threshold, not reason)
            counts[language][verdict] += 1
            if verdict in samples:  # a uniform sample of each
                seen[verdict] += 1
                row = {"overall": round(score, 4), "filters": reason, "source": document.source, "text": text}
                if len(samples[verdict]) < SAMPLES:
                    samples[verdict].append(row)
                elif (place := rng.randrange(seen[verdict])) < SAMPLES:
                    samples[verdict][place] = row
    table = [
        {"language": language, **{verdict: count[verdict] for verdict in ("both", *samples, "neither")}}
        for language, count in sorted(counts.items(), key=lambda item: -item[1].total())
    ]
    return table, samples, junk


def verdict_of(judged: bool, filtered: bool) -> str:
    """Who keeps the document."""
    if judged:
        return "both" if filtered else "only the judge"
    return "only the filters" if filtered else "neither"


def held_out_documents(corpus: Path, most: int = 1_500) -> list[Document]:
    """Documents that no classifier was fitted to, in order of their ids, which are hashes."""
    found = [d for d in read_documents(corpus) if is_held_out(d.id, MEASURED_SHARE)]
    return sorted(found, key=lambda document: document.id)[:most]


def letters(text: str) -> float:
    """Share of letters in what the judge reads of a text."""
    text = text[:EXCERPT]
    return sum(map(str.isalpha, text)) / max(1, len(text))


def batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    while batch := list(islice(documents, BATCH)):
        yield batch


__all__ = ["judge_report"]
