"""From the scores of several seeds to an effect with its interval, and to a verdict."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np

from components.claims.claim import Claim, Contrast, Scores
from components.evaluation.statistics import Estimate, paired_difference, paired_difference_over_seeds

Verdict = Literal["holds", "not shown at this scale", "contradicted", "not measured"]
HOLDS: Final = "holds"
OPEN: Final = "not shown at this scale"
CONTRADICTED: Final = "contradicted"
MISSING: Final = "not measured"
LEAST_SEEDS = 2
"""One training says nothing of the spread between trainings."""


@dataclass(frozen=True)
class Finding:
    """One contrast over all seeds. ``low`` and ``high`` bound the 95% interval of ``difference``."""

    contrast: str
    unit: str
    better: str
    margin: float | None
    rule: str
    verdict: Verdict
    treated: float
    baseline: float
    difference: float
    low: float
    high: float
    items: int
    by_seed: tuple[float, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON-able: a bound that is not known is None."""
        values = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(self).items()
        }
        return values | {"by_seed": list(self.by_seed)}


def judge(claim: Claim, results: Mapping[int, Mapping[str, Scores]]) -> tuple[Verdict, list[Finding]]:
    """Verdict and findings of a claim from the scores of each seed: the worst finding decides."""
    if len(results) < LEAST_SEEDS:
        return MISSING, []
    findings = [find(contrast, [scores[contrast.name] for scores in results.values()]) for contrast in claim.contrasts]
    verdicts = {finding.verdict for finding in findings}
    worst: Verdict = CONTRADICTED if CONTRADICTED in verdicts else OPEN if OPEN in verdicts else HOLDS
    return worst, findings


def find(contrast: Contrast, seeds: Sequence[Scores]) -> Finding:
    """One contrast; ValueError where the seeds measured different numbers of items."""
    sizes = {len(side) for scores in seeds for side in (scores.treated, scores.baseline)}
    if len(sizes) != 1:
        raise ValueError(f"{contrast.name}: the seeds measured {sorted(sizes)} items; they must measure the same ones")
    treated, baseline = (np.array([getattr(scores, side) for scores in seeds]) for side in ("treated", "baseline"))
    weights = np.array([scores.weights or [1.0] * len(scores.treated) for scores in seeds])
    gap = _gap(treated, baseline, weights)
    totals = weights.sum(axis=1)
    return Finding(
        contrast.name, contrast.unit, contrast.better, contrast.margin, contrast.rule, _verdict(contrast, gap),
        float((treated.sum(axis=1) / totals).mean()), float((baseline.sum(axis=1) / totals).mean()),
        gap.value, gap.low, gap.high, gap.n,
        tuple(((treated - baseline).sum(axis=1) / totals).tolist()),
    )  # fmt: skip


def _gap(treated: np.ndarray, baseline: np.ndarray, weights: np.ndarray) -> Estimate:
    """Paired over items and seeds. Where each side is all right or all wrong nothing varies: the interval is then that
    of so many independent items (``paired_difference``), not a width of zero."""
    if (weights == 1).all() and all(_unanimous(side) for side in (treated, baseline)):
        items = np.tile(np.arange(treated.shape[1]), len(treated))
        return paired_difference(treated.ravel(), baseline.ravel(), clusters=items)
    # Held-out texts weigh the same under every seed; drawn ones differ a little, and each keeps its own scale.
    mean = weights.mean(axis=0)
    return paired_difference_over_seeds(treated / weights * mean, baseline / weights * mean, mean)


def _unanimous(side: np.ndarray) -> bool:
    return bool((side == side.flat[0]).all()) and side.flat[0] in (0.0, 1.0)


def _verdict(contrast: Contrast, gap: Estimate) -> Verdict:
    low, high = (gap.low, gap.high) if contrast.better == "higher" else (-gap.high, -gap.low)
    bound = -(contrast.margin or 0.0)
    if low > bound:
        return HOLDS
    return CONTRADICTED if high < bound else OPEN


__all__ = ["CONTRADICTED", "HOLDS", "LEAST_SEEDS", "MISSING", "OPEN", "Finding", "Verdict", "find", "judge"]
