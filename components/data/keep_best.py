"""Which document of a cluster of near copies is kept: the longest, or the one of the best quality.

Quality is scored here, before the ``quality`` stage, by that stage's own bundled judge (``quality_judges``) fitted to
this corpus, and only for documents that have near copies. A judge of your own sees the corpus afterwards.
"""

import random
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from components.data.documents import read_documents
from components.data.quality import QualityConfig
from components.data.quality_judges import bundled_labels
from components.data.quality_model import BATCH, fit_judge
from components.data.quality_scoring import sample_documents

LEAST_LENGTH = 0.5
"""Of the longest of its cluster: a fragment of it may be cleaner, but holds too little of it."""


def quality_of(corpus: Path, wanted: np.ndarray, seed: int) -> np.ndarray:
    """Overall score of every document in [0, 1], (documents,); NaN where ``wanted`` (documents,) is false."""
    config = QualityConfig()
    sample = sample_documents(read_documents(corpus), 8 * config.judged_documents, seed)
    scores = np.full(len(wanted), np.nan)
    if not sample or not wanted.any():
        return scores
    with threadpool_limits(1):  # sums in one order on every machine
        labels = bundled_labels(sample, config.judged_documents // 2, random.Random(f"{seed}-keep-best"))
        judge = fit_judge(config, sample, labels)
        rows, batch = [], []
        for row, document in enumerate(read_documents(corpus)):
            if wanted[row]:
                rows.append(row)
                batch.append(document)
            if len(batch) == BATCH or (batch and row == len(wanted) - 1):
                # Rounded: the last bits differ between machines, and must not decide.
                scores[rows] = np.round(judge.overall(batch), 4)
                rows, batch = [], []
    return scores


def best_by_quality(cluster: np.ndarray, lengths: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Which documents to keep, (documents,) bool: the best score of each cluster, the earliest of equal ones."""
    longest = np.zeros(int(cluster.max(initial=-1)) + 1, dtype=np.int64)
    np.maximum.at(longest, cluster, lengths)
    eligible = np.flatnonzero(lengths >= LEAST_LENGTH * longest[cluster])
    order = eligible[np.lexsort((eligible, -np.nan_to_num(scores[eligible]), cluster[eligible]))]
    _, first = np.unique(cluster[order], return_index=True)
    keep = np.zeros(len(lengths), dtype=bool)
    keep[order[first]] = True
    return keep
