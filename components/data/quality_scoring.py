"""Distils the judge's labels into a classifier, scores every document, keeps the better ones and measures all that."""

import json
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from components.data.documents import Document, is_held_out, read_documents, write_documents
from components.data.features import EXCERPT, CharacterModel, dense_features, ngrams
from components.data.judging import make_teacher
from components.data.quality import DIMENSIONS
from components.data.quality_judges import MEASURED_SHARE, Labelled, bundled_labels, taught_labels
from components.stage import Inputs, Run, StageError, Summary, effect

if TYPE_CHECKING:
    from components.data.quality import QualityConfig

BATCH = 2_000
REFERENCE_TEXTS = 3_000
ENGLISH_ONLY = frozenset({"educational", "factual", "harmlessness"})
NEUTRAL = 0.5
"""Written for a dimension that was not judged; it does not enter the overall score."""
Group = tuple[str, str]


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

    def judge(self, documents: Sequence[Document], english_only: frozenset[str]) -> np.ndarray:
        """``score``, with NaN where the judge knows a dimension in English alone and the document is not English."""
        scores = self.score([document.text for document in documents])
        other = [row for row, document in enumerate(documents) if document.language != "en"]
        masked = [column for column, dimension in enumerate(DIMENSIONS) if dimension in english_only]
        scores[np.ix_(other, masked)] = np.nan
        return scores

    def score(self, texts: Sequence[str]) -> np.ndarray:
        """Probability of good in each dimension, ``(texts, 5)``; NaN where a dimension could not be learned."""
        features = self.features(texts)
        scores = np.full((len(texts), len(DIMENSIONS)), np.nan)
        for column, dimension in enumerate(DIMENSIONS):
            if dimension in self.models:
                scores[:, column] = self.models[dimension].predict_proba(features)[:, 1]
        return scores


def write_scored(config: "QualityConfig", inputs: Inputs, run: Run) -> Summary:
    """See ``components.data.quality.score_quality``. Three passes: sample and fit, score in batches, write."""
    with threadpool_limits(1):  # sums in one order on every machine; more threads only wait for each other here
        return _write_scored(config, inputs, run)


def _write_scored(config: "QualityConfig", inputs: Inputs, run: Run) -> Summary:
    weights = np.array([config.weights.get(dimension, 0.0) for dimension in DIMENSIONS])
    if set(config.weights) - set(DIMENSIONS) or weights.sum() <= 0:
        raise StageError(f"quality: weights must be for {', '.join(DIMENSIONS)} and not all 0; got {config.weights}")
    sample = sample_documents(read_documents(inputs["documents"]), 8 * config.judged_documents, run.seed)
    if len(sample) < 50:
        raise StageError(f"quality: only {len(sample)} documents came in; at least 50 are needed to learn a scale")
    rng = random.Random(f"{run.seed}-quality")
    model = QualityModel([document.text for document in sample[:REFERENCE_TEXTS]])
    if config.judge == "bundled":
        labels = bundled_labels(sample, config.judged_documents // 2, rng)
    else:
        labels = taught_labels(sample, config, make_teacher(config.judge, config.teacher, run), rng)
    effects = []
    for number, (dimension, labelled) in enumerate(labels.items()):
        if len({label.target > 0.5 for label in labelled}) < 2 or len(labelled) < 40:
            run.info(f"quality: too few contrasting documents to learn '{dimension}'; it stays neutral")
            continue
        targets, scores = model.fit(dimension, labelled)
        if len(set(targets)) == 2:
            note = f"{config.judge} judge, {len(targets)} held-out texts; the baseline is chance"
            effects.append(_auc_effect(f"AUC of {dimension}", targets, scores, None, [run.seed, number], note))

    english_only = ENGLISH_ONLY if config.judge == "bundled" else frozenset()
    scores, groups = _score_all(inputs, model, run, english_only)
    overall = overall_score(scores, weights)
    thresholds = keep_thresholds(overall, groups, config.keep_share, config.most_dropped_share)
    kept = overall >= np.array([thresholds[group] for group in groups])
    count = write_documents(run.output, _kept(read_documents(inputs["documents"]), scores, overall, kept))
    _write_samples(run.output / "samples.jsonl", inputs, overall, kept, rng)
    junk = [document for document in read_documents(inputs["rejected"]) if document.meta.get("label") == "junk"]
    if junk:
        real = [document for document in sample if is_held_out(document.id, MEASURED_SHARE)][:1500]
        judged = overall_score(model.judge([*real, *junk], english_only), weights)
        bar = float(np.quantile(overall, 1 - config.keep_share))
        effects += _junk_effects(real, junk, judged, bar, run.seed)
    return {
        "documents": count,
        "dropped": int((~kept).sum()),
        "dropped_share": _shares(groups, ~kept),
        "mean_scores": {
            name: round(float(np.nanmean(scores[:, column])), 4)
            for column, name in enumerate(DIMENSIONS)
            if not np.isnan(scores[:, column]).all()
        },
        "effects": effects,
    }


def keep_thresholds(
    overall: np.ndarray, groups: Sequence[Group], keep: float, most_dropped: float
) -> dict[Group, float]:
    """Smallest overall score that is kept, for each group (language, kind of source).

    One common threshold keeps more of good groups and less of bad ones; no group loses more than ``most_dropped``,
    so that a language or a style that the classifier misjudges is not thrown away.
    """
    common = float(np.quantile(overall, 1 - keep))
    members: dict[Group, list[int]] = defaultdict(list)
    for index, group in enumerate(groups):
        members[group].append(index)
    return {group: min(common, float(np.quantile(overall[rows], most_dropped))) for group, rows in members.items()}


def sample_documents(documents: Iterable[Document], size: int, seed: int) -> list[Document]:
    """A uniform sample (reservoir), so a corpus of any size fits."""
    rng = random.Random(f"{seed}-quality-sample")
    sample: list[Document] = []
    for number, document in enumerate(documents):
        if number < size:
            sample.append(document)
        elif (place := rng.randrange(number + 1)) < size:
            sample[place] = document
    rng.shuffle(sample)
    return sample


def _score_all(
    inputs: Inputs, model: QualityModel, run: Run, english_only: frozenset[str]
) -> tuple[np.ndarray, list[Group]]:
    """Scores ``(documents, 5)`` and the group of each; batches that a killed run has scored are read back."""
    documents = read_documents(inputs["documents"])
    scores: list[np.ndarray] = []
    groups: list[Group] = []
    with run.progress(int(inputs["documents"].summary.get("documents", 0)), "quality", unit="documents") as progress:
        while batch := list(islice(documents, BATCH)):
            file = run.state / f"scores-{len(scores):05d}.npy"
            if file.exists():
                scored = np.load(file)
            else:
                scored = model.judge(batch, english_only)
                partial = file.with_suffix(".partial")
                with partial.open("wb") as stream:
                    np.save(stream, scored)
                partial.replace(file)
            scores.append(scored)
            groups += [(document.language, document.meta.get("domain_hint", "")) for document in batch]
            progress.advance(len(batch))
    return np.concatenate(scores), groups


def _kept(
    documents: Iterator[Document], scores: np.ndarray, overall: np.ndarray, kept: np.ndarray
) -> Iterator[Document]:
    for document, row, total, keep in zip(documents, scores, overall, kept, strict=True):
        if keep:
            known = np.where(np.isnan(row), NEUTRAL, row)
            values = {name: round(float(value), 4) for name, value in zip(DIMENSIONS, known, strict=True)}
            document.quality = {**values, "overall": round(float(total), 4)}
            yield document


def _write_samples(
    file: Path, inputs: Inputs, overall: np.ndarray, kept: np.ndarray, rng: random.Random, count: int = 20
) -> None:
    chosen: dict[int, bool] = {}
    for side in (True, False):
        rows = np.flatnonzero(kept == side).tolist()
        chosen |= dict.fromkeys(rng.sample(rows, min(count, len(rows))), side)
    with file.open("w", encoding="utf-8") as stream:
        for row, document in enumerate(read_documents(inputs["documents"])):
            if row in chosen:
                facts = {"kept": chosen[row], "overall": round(float(overall[row]), 4), "source": document.source}
                stream.write(json.dumps({**facts, "text": document.text[:400]}, ensure_ascii=False) + "\n")


def _junk_effects(
    real: Sequence[Document], junk: Sequence[Document], overall: np.ndarray, bar: float, seed: int
) -> list[dict]:
    """Known junk against real documents, none of which a classifier was fitted to."""
    texts = [document.text[:EXCERPT] for document in [*real, *junk]]
    is_real = np.arange(len(texts)) < len(real)
    letters = np.array([sum(map(str.isalpha, text)) / max(1, len(text)) for text in texts])
    same_cost = float(np.quantile(letters[is_real], float((overall[is_real] < bar).mean())))
    name = "known junk below the threshold"
    note = "baseline: share of letters, with a threshold that drops as many real documents"
    return [
        _auc_effect("AUC of known junk", is_real, overall, letters, [seed, 99], "baseline: share of letters"),
        effect(name, (overall[~is_real] < bar).mean(), (letters[~is_real] < same_cost).mean(), note=note),
    ]


def _auc_effect(
    name: str, targets: np.ndarray, scores: np.ndarray, baseline: np.ndarray | None, seed: list[int], note: str
) -> dict:
    """Area under the ROC curve beside that of ``baseline`` (or chance), with a paired bootstrap interval."""
    low, high = auc_interval(targets, scores, seed, baseline)
    other = 0.5 if baseline is None else auc(targets, baseline)
    value = auc(targets, scores)
    return effect(name, value, other, unit="AUC", low=low, high=high, note=note)


def auc_interval(
    targets: np.ndarray, scores: np.ndarray, seed: list[int], baseline: np.ndarray | None = None
) -> tuple[float, float]:
    """95% interval of the area's lead over ``baseline`` (or chance), by a paired bootstrap over texts."""
    random_state = np.random.default_rng(seed)
    differences = []
    for _ in range(200):
        rows = random_state.integers(len(targets), size=len(targets))
        if len(set(targets[rows])) == 2:
            other = 0.5 if baseline is None else auc(targets[rows], baseline[rows])
            differences.append(auc(targets[rows], scores[rows]) - other)
    low, high = np.quantile(differences, [0.025, 0.975])
    return float(low), float(high)


def auc(targets: np.ndarray, scores: np.ndarray) -> float:
    """Probability that a good text scores above a bad one (Mann-Whitney), ties counted half."""
    good = int(targets.sum())
    bad = len(targets) - good
    return float((rankdata(scores)[targets].sum() - good * (good + 1) / 2) / (good * bad))


def overall_score(scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted mean of the dimensions that were judged (NaN: not judged), ``(texts,)``."""
    judged = ~np.isnan(scores)
    total = judged @ weights
    return np.where(total > 0, np.nan_to_num(scores) @ weights / np.maximum(total, 1e-9), NEUTRAL)


def _shares(groups: Sequence[Group], dropped: np.ndarray) -> dict[str, float]:
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for (language, hint), gone in zip(groups, dropped, strict=True):
        counts[f"{language}/{hint or 'any'}"][0] += int(gone)
        counts[f"{language}/{hint or 'any'}"][1] += 1
    return {name: round(gone / total, 4) for name, (gone, total) in sorted(counts.items())}
