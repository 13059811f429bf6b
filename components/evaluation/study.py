"""A scaling study on the report card: what was predicted beside what came out, for each kind of model."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from components.evaluation.claim import Claim, Verdict
from components.scaling.outcome import LOSS_WITHIN, OPTIMUM_WITHIN
from components.stage import Artifact

KINDS = {"dense": "Dense", "moe": "Mixture of experts"}
HELD_OUT = "held-out-"
Study = dict[str, dict[str, Any]]


def study(inputs: Mapping[str, Artifact]) -> Study:
    """Kind -> its ``outcome.json``, the fitted ``law`` and ``rows`` of prediction beside outcome; empty if none ran."""
    found: Study = {}
    for kind, title in KINDS.items():
        if f"{HELD_OUT}{kind}" not in inputs or f"law-{kind}" not in inputs:
            continue
        outcome = json.loads((inputs[f"{HELD_OUT}{kind}"].path / "outcome.json").read_text(encoding="utf-8"))
        law = json.loads((inputs[f"law-{kind}"].path / "law.json").read_text(encoding="utf-8"))
        found[kind] = {"title": title, **outcome, "law": law, "rows": list(_rows(outcome, law))}
    return found


def study_claims(studies: Study) -> list[dict[str, Any]]:
    """What a scaling law must be good for."""
    rows = []
    for entry in studies.values():
        prediction, best = entry["prediction"], entry["best"]["loss"]
        predicted, times = prediction["loss"], prediction["times_largest"]
        rows.append(
            Claim(
                f"{entry['title']}: the loss of a model {times:.1f} times as large as any fitted is predicted",
                _verdict(abs(entry["loss_error"]) <= LOSS_WITHIN), "nats a token", predicted["value"], entry["loss"],
                predicted["value"] - entry["loss"], predicted["low"] - entry["loss"], predicted["high"] - entry["loss"],
                prediction["runs"],
                f"within {LOSS_WITHIN:.0%} of the loss that came out (the baseline here); it is off by "
                f"{entry['loss_error']:+.1%}",
            )
        )  # fmt: skip
        rows.append(
            Claim(
                f"{entry['title']}: the predicted learning rate and batch size are good there",
                _verdict(entry["gap_to_best"] <= OPTIMUM_WITHIN), "nats a token", entry["loss"], best,
                entry["loss"] - best, n=len(entry["points"]),
                rule=f"loss within {OPTIMUM_WITHIN:.0%} of the best of a direct sweep (the baseline here); it is "
                f"{entry['gap_to_best']:+.2%} away",
            )
        )  # fmt: skip
    return [asdict(row) for row in rows]


def study_facts(inputs: Mapping[str, Artifact]) -> list[tuple[str, str]]:
    """Runs and sizes of every kind."""
    found = []
    for kind, title in KINDS.items():
        sweeps = [artifact.summary for stage, artifact in inputs.items() if stage.startswith(f"sweep-{kind}-")]
        if sweeps:
            sizes = sorted(int(summary["active_parameters"]) for summary in sweeps)
            runs = sum(int(summary["runs"]) for summary in sweeps)
            label = "active parameters" if kind == "moe" else "parameters"
            found.append(
                (f"{title.lower()}: runs over {len(sizes)} sizes, {sizes[0]:,} to {sizes[-1]:,} {label}", f"{runs:,}")
            )
    return found


def _verdict(holds: bool) -> Verdict:
    return "holds" if holds else "does not hold"


def _rows(outcome: Mapping[str, Any], law: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    prediction, best = outcome["prediction"], outcome["best"]
    yield {"quantity": "loss, nats a token", "predicted": prediction["loss"], "outcome": outcome["loss"]}
    for quantity, title in (("learning_rate", "best learning rate"), ("batch_tokens", "best tokens an update")):
        yield {"quantity": title, "predicted": prediction[quantity], "outcome": best[quantity]}
    for quantity, title in (("learning_rate", "learning rate"), ("batch_tokens", "tokens an update")):
        for variable, name in (("parameters", "N"), ("tokens", "D")):
            low, high = law[quantity][f"exponent_{variable}_interval"]
            value = law[quantity][f"exponent_{variable}"]
            yield {
                "quantity": f"exponent of {name} in the {title}",
                "predicted": {"value": value, "low": low, "high": high},
                "outcome": None,
            }
    if exponent := prediction["expert_exponent"]:
        title = "g: experts are worth N_active^(1-g) N_total^g dense parameters"
        yield {"quantity": title, "predicted": exponent, "outcome": None}
        title = "loss of a dense model of as many active parameters"
        yield {"quantity": title, "predicted": prediction["equal_dense_loss"], "outcome": None}


__all__ = ["study", "study_claims", "study_facts"]
