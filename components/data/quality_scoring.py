"""Distils the judge's labels into a classifier, scores every document, keeps the better ones and measures all that."""

import json
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import rankdata
from threadpoolctl import threadpool_limits

from components.data.documents import Document, is_held_out, read_documents, write_documents
from components.data.features import EXCERPT
from components.data.quality import DIMENSIONS
from components.data.quality_judges import MEASURED_SHARE
from components.data.quality_model import BATCH, NEUTRAL, Judge, fit_judge, labels_of, overall_score, weights_of
from components.stage import Inputs, Run, StageError, Summary, effect

if TYPE_CHECKING:
    from components.data.quality import QualityConfig

Group = tuple[str, str]


def write_scored(config: "QualityConfig", inputs: Inputs, run: Run) -> Summary:
    """See ``components.data.quality.score_quality``. Three passes: sample and fit, score in batches, write."""
    with threadpool_limits(1):  # sums in one order on every machine; more threads only wait for each other here
        return _write_scored(config, inputs, run)


def _write_scored(config: "QualityConfig", inputs: Inputs, run: Run) -> Summary:
    weights = weights_of(config)
    if set(config.weights) - set(DIMENSIONS) or weights.sum() <= 0:
        raise StageError(f"quality: weights must be for {', '.join(DIMENSIONS)} and not all 0; got {config.weights}")
    sample = sample_documents(read_documents(inputs["documents"]), 8 * config.judged_documents, run.seed)
    if len(sample) < 50:
        raise StageError(f"quality: only {len(sample)} documents came in; at least 50 are needed to learn a scale")
    rng = random.Random(f"{run.seed}-quality")
    judge = fit_judge(config, sample, labels_of(config, sample, rng, run))
    for dimension in (name for name in DIMENSIONS if name not in judge.held_out):
        run.info(f"quality: too few contrasting documents to learn '{dimension}'; it stays neutral")
    effects = []
    for dimension, (targets, found, _) in judge.held_out.items():
        if len(set(targets)) == 2:
            note = f"{config.judge} judge, {len(targets)} held-out texts; the baseline is chance"
            seed = [run.seed, DIMENSIONS.index(dimension)]
            effects.append(_auc_effect(f"AUC of {dimension}", targets, found, None, seed, note))

    scores, groups = _score_all(inputs, judge, run)
    overall = overall_score(scores, weights)
    thresholds = keep_thresholds(overall, groups, config.keep_share, config.most_dropped_share)
    kept = overall >= np.array([thresholds[group] for group in groups])
    count = write_documents(run.output, _kept(read_documents(inputs["documents"]), scores, overall, kept))
    _write_samples(run.output / "samples.jsonl", inputs, overall, kept, rng)
    junk = [document for document in read_documents(inputs["rejected"]) if document.meta.get("label") == "junk"]
    if junk:
        real = [document for document in sample if is_held_out(document.id, MEASURED_SHARE)][:1500]
        judged = judge.overall([*real, *junk])
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


def _score_all(inputs: Inputs, judge: Judge, run: Run) -> tuple[np.ndarray, list[Group]]:
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
                scored = judge.scores(batch)
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


def _shares(groups: Sequence[Group], dropped: np.ndarray) -> dict[str, float]:
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for (language, hint), gone in zip(groups, dropped, strict=True):
        counts[f"{language}/{hint or 'any'}"][0] += int(gone)
        counts[f"{language}/{hint or 'any'}"][1] += 1
    return {name: round(gone / total, 4) for name, (gone, total) in sorted(counts.items())}
