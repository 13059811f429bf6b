"""What a reward model is worth on held-out pairs: accuracy with intervals, the length rule beside it, calibration."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from components.evaluation.statistics import paired_difference, proportion
from components.preference.combination import calibration
from components.preference.criterion_pairs import CriterionPair
from components.preference.pair_store import Pair

BINS = 10


def of_criterion(
    members: Sequence[CriterionPair], margins: np.ndarray, training: Sequence[Pair], seed: int
) -> dict[str, Any]:
    """Of one criterion's held-out pairs, whose ``margins`` (pairs,) its head gives; the rule is learnt in training."""
    pairs = [member.pair for member in members]
    right = (margins > 0).astype(float)
    rule, by_length = length_rule(training, pairs)

    def share(chosen: Sequence[bool]) -> dict[str, Any]:
        return proportion(right[np.array(chosen)]).as_dict()

    return {
        **of_pairs(margins, pairs),
        "seen_wordings": share([not member.unseen for member in members]),
        "unseen_wordings": share([member.unseen for member in members]),
        "by_fault": {
            fault: share([member.fault == fault for member in members])
            for fault in sorted({member.fault for member in members})
        },
        "rule": rule,
        "length_rule": float(by_length.mean()),
        "lead": paired_difference(right, by_length, seed=seed).as_dict(),
    }


def of_pairs(margins: np.ndarray, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Accuracy of ``margins`` (pairs,), also where the better answer is the longer or the shorter one; calibration."""
    right = (margins > 0).astype(float)
    longer = np.array([len(pair.chosen) > len(pair.rejected) for pair in pairs])
    prompts = [pair.id.rsplit("-", 1)[0] for pair in pairs]
    found = calibration(margins, BINS)
    return {
        "accuracy": proportion(right, clusters=prompts).as_dict(),
        "where_longer_is_better": float(right[longer].mean()) if longer.any() else None,
        "where_shorter_is_better": float(right[~longer].mean()) if (~longer).any() else None,
        "calibration_error": found.error,
        "brier": found.brier,
        "log_loss": found.log_loss,
        "reliability": found.bins,
    }


def length_rule(training: Sequence[Pair], heldout: Sequence[Pair]) -> tuple[str, np.ndarray]:
    """The better of "longer wins" and "shorter wins" on the training pairs, and how far it is right held out, (pairs,);
    a tie is half right."""

    def longer(pairs: Sequence[Pair]) -> np.ndarray:
        difference = np.array([len(pair.chosen) - len(pair.rejected) for pair in pairs])
        return (np.sign(difference) + 1) / 2

    wins = float(longer(training).mean())
    return ("longer", longer(heldout)) if wins >= 0.5 else ("shorter", 1 - longer(heldout))
