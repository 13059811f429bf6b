"""What documents are scored with: a judge's labels, distilled into a classifier that scores thousands a second."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from components.data.documents import Document, is_held_out
from components.data.features import CharacterModel, dense_features, ngrams
from components.data.judging import make_teacher
from components.data.quality import DIMENSIONS
from components.data.quality_judges import MEASURED_SHARE, Labelled, bundled_labels, taught_labels
from components.stage import Run

if TYPE_CHECKING:
    from components.data.quality import QualityConfig

NEUTRAL = 0.5
"""Written for a dimension that was not judged; it does not enter the overall score."""
BATCH = 2_000
"""Documents that are scored together."""
REFERENCE_TEXTS = 3_000
LEAST_LABELS = 40
"""Of a dimension, below which it is not learned."""
ENGLISH_ONLY = frozenset({"educational", "factual", "harmlessness"})


class QualityModel:
    """One logistic regression a dimension over hashed n-grams and standardised statistics."""

    def __init__(self, reference: Sequence[str]) -> None:
        self.characters = CharacterModel(reference)
        self.models: dict[str, LogisticRegression] = {}
        statistics = dense_features(reference[:BATCH], self.characters)
        self.mean, self.scale = statistics.mean(axis=0), statistics.std(axis=0) + 1e-6

    def features(self, texts: Sequence[str]) -> sparse.csr_matrix:
        """``(texts, 2**16 + statistics)``; statistics are clipped to 4 deviations and scaled to weigh like n-grams."""
        dense = np.clip((dense_features(texts, self.characters) - self.mean) / self.scale, -4, 4) / 4
        return sparse.hstack([ngrams(texts), sparse.csr_matrix(dense)], format="csr")

    def fit(self, dimension: str, labels: Sequence[Labelled]) -> tuple[np.ndarray, np.ndarray]:
        """Fit to soft targets; returns held-out (targets as 0 or 1, scores)."""
        features = self.features([label.text for label in labels])
        targets = np.array([label.target for label in labels])
        measured = np.array([is_held_out(label.origin, MEASURED_SHARE) for label in labels])
        seen, goals = features[~measured], targets[~measured]
        model = LogisticRegression(C=10.0, solver="liblinear", random_state=0, max_iter=200)
        # a soft target t is the label 1 with weight t and the label 0 with weight 1 - t
        soft = sparse.vstack([seen, seen], format="csr")
        weights = np.concatenate([goals, 1 - goals])
        used = weights > 0
        classes = np.concatenate([np.ones(len(goals)), np.zeros(len(goals))])
        self.models[dimension] = model.fit(soft[used], classes[used], sample_weight=weights[used])
        middle = 0.5 if set(np.unique(targets)) <= {0.0, 1.0} else float(np.median(targets))
        return targets[measured] > middle, model.predict_proba(features[measured])[:, 1]

    def score(self, texts: Sequence[str]) -> np.ndarray:
        """Probability of good in each dimension, ``(texts, 5)``; NaN where a dimension could not be learned."""
        features = self.features(texts)
        scores = np.full((len(texts), len(DIMENSIONS)), np.nan)
        for column, dimension in enumerate(DIMENSIONS):
            if dimension in self.models:
                scores[:, column] = self.models[dimension].predict_proba(features)[:, 1]
        return scores


@dataclass(frozen=True)
class Judge:
    """A fitted judge, and what it was measured on: dimension -> (texts are good, scores, languages)."""

    model: QualityModel
    weights: np.ndarray
    """(5,) of each dimension in the overall score."""
    english_only: frozenset[str]
    """Dimensions that it knows in English alone."""
    held_out: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]

    def scores(self, documents: Sequence[Document]) -> np.ndarray:
        """(documents, 5), NaN where a dimension could not be learned, or not for the document's language."""
        scores = self.model.score([document.text for document in documents])
        other = [row for row, document in enumerate(documents) if document.language != "en"]
        masked = [column for column, dimension in enumerate(DIMENSIONS) if dimension in self.english_only]
        scores[np.ix_(other, masked)] = np.nan
        return scores

    def overall(self, documents: Sequence[Document]) -> np.ndarray:
        """Score of each document in [0, 1], (documents,)."""
        return overall_score(self.scores(documents), self.weights)


def labels_of(
    config: "QualityConfig", sample: Sequence[Document], rng: random.Random, run: Run
) -> dict[str, list[Labelled]]:
    """What the configured judge says of a part of ``sample``, by dimension."""
    if config.judge == "bundled":
        return bundled_labels(sample, config.judged_documents // 2, rng)
    return taught_labels(sample, config, make_teacher(config.judge, config.teacher, run), rng)


def fit_judge(config: "QualityConfig", sample: Sequence[Document], labels: dict[str, list[Labelled]]) -> Judge:
    """Distil labels of documents of ``sample``; a dimension with too few contrasting ones is left out."""
    model = QualityModel([document.text for document in sample[:REFERENCE_TEXTS]])
    language = {document.id: document.language for document in sample}
    held_out = {}
    for dimension, labelled in labels.items():
        if len({label.target > 0.5 for label in labelled}) == 2 and len(labelled) >= LEAST_LABELS:
            targets, scores = model.fit(dimension, labelled)
            measured = [language[label.origin] for label in labelled if is_held_out(label.origin, MEASURED_SHARE)]
            held_out[dimension] = (targets, scores, np.array(measured))
    english_only = ENGLISH_ONLY if config.judge == "bundled" else frozenset()
    return Judge(model, weights_of(config), english_only, held_out)


def weights_of(config: "QualityConfig") -> np.ndarray:
    return np.array([config.weights.get(dimension, 0.0) for dimension in DIMENSIONS])


def overall_score(scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted mean of the dimensions that were judged (NaN: not judged), ``(texts,)``."""
    judged = ~np.isnan(scores)
    total = judged @ weights
    return np.where(total > 0, np.nan_to_num(scores) @ weights / np.maximum(total, 1e-9), NEUTRAL)
