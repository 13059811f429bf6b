"""Long context on the report card: the measurements, and what an extended context must reach."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from components.evaluation.claim import Claim, Verdict
from components.stage import Artifact

TRAINED, STRETCHED, PLAIN = 0.95, 0.9, 0.2
"""Share of pass keys: over the first at every trained length; over the second at several times the longest with YaRN
and DCA; under the third there with plain RoPE, or extrapolation has nothing to add."""
SHORT = 0.005
"""Rise of bits per byte of short texts, as a share of what they took before."""
TITLES = {"base": "before extension", "long": "after extension"}


def long_context(inputs: Mapping[str, Artifact]) -> dict[str, Any]:
    """``long.json`` with titles; empty where the stage did not run."""
    if "long-context" not in inputs:
        return {}
    content: dict[str, Any] = json.loads((inputs["long-context"].path / "long.json").read_text(encoding="utf-8"))
    rows = [{"title": TITLES.get(row["way"], row["way"]), **row} for row in content["passkeys"]]
    losses = {TITLES.get(name, name): values for name, values in content["loss_by_position"]["losses"].items()}
    return content | {"passkeys": rows, "loss_by_position": {**content["loss_by_position"], "losses": losses}}


def long_context_claims(measured: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each of the things that are demanded; none where nothing was measured."""
    if not measured:
        return []
    keys = {(row["way"], row["length"]): row for row in measured["passkeys"]}
    worst = min((keys["long", length] for length in measured["lengths"]), key=lambda row: row["found"])
    before, longest = keys["base", worst["length"]], measured["stretched"]
    stretched, plain = keys["YaRN + DCA", longest], keys["plain RoPE", longest]
    bits = measured["bits_per_byte"]
    rows = [
        Claim(
            f"Pass keys are found at every trained length ({worst['length']:,} tokens is the worst)",
            _verdict(worst["found"] > TRAINED), "share", worst["found"], before["found"],
            worst["found"] - before["found"], n=worst["n"], rule=f"over {TRAINED:.0%} (baseline: before extension)",
        ),
        Claim(
            f"YaRN and DCA find pass keys at {longest:,} tokens without training",
            _verdict(stretched["found"] > STRETCHED), "share", stretched["found"], plain["found"],
            stretched["found"] - plain["found"], n=stretched["n"], rule=f"over {STRETCHED:.0%} (baseline: plain RoPE)",
        ),
        Claim(
            f"Plain RoPE does not find them at {longest:,} tokens",
            _verdict(plain["found"] < PLAIN), "share", plain["found"], stretched["found"],
            plain["found"] - stretched["found"], n=plain["n"], rule=f"under {PLAIN:.0%} (baseline: YaRN and DCA)",
        ),
        Claim(
            f"Texts of at most {measured['old_length']:,} tokens take no more bits after extension",
            _verdict(bits["after"] <= bits["before"] * (1 + SHORT)), "bits/byte", bits["after"], bits["before"],
            bits["value"], bits["low"], bits["high"], bits["n"],
            rule=f"at most {SHORT:.1%} more than before (the baseline); it is "
            f"{bits['after'] / bits['before'] - 1:+.2%}",
        ),
    ]  # fmt: skip
    return [asdict(row) for row in rows]


def _verdict(holds: bool) -> Verdict:
    return "holds" if holds else "does not hold"


__all__ = ["long_context", "long_context_claims"]
