"""One row of the report card's headline table."""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["holds", "does not hold", "not run"]


@dataclass(frozen=True)
class Claim:
    """One row of the headline table. ``low`` and ``high``: 95% interval of the paired difference."""

    claim: str
    verdict: Verdict
    unit: str = "share"
    value: float | None = None
    baseline: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    rule: str = ""


__all__ = ["Claim", "Verdict"]
