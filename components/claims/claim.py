"""What a claim is made of: a statement, a design, a measurement that one seed repeats, and what decides.

Both sides of a contrast are measured item by item (documents, prompts, pass keys), the same items on each side, so
that ``components.claims.verdict`` can pair them over items and seeds.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

from components.stage import Artifact, Inputs, Kind, Run, StageConfig, Summary


@dataclass(frozen=True)
class Scores:
    """One contrast under one seed, (items,) each: the side that the claim speaks for, and the other.

    ``weights`` are the denominators (bytes of a document); empty: one each.
    """

    treated: list[float]
    baseline: list[float]
    weights: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, treated: Iterable[float], baseline: Iterable[float], weights: Iterable[float] = ()) -> "Scores":
        """From anything with numbers in it."""
        return cls(*([float(value) for value in values] for values in (treated, baseline, weights)))

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


Measured = Mapping[str, Scores]
"""Scores by the name of their contrast."""


@dataclass(frozen=True)
class Contrast:
    """What is compared, and what of it decides.

    Without ``margin`` the treated side must be better than the other; with one it must not be worse by more than that.
    """

    name: str
    unit: str = "share"
    better: Literal["higher", "lower"] = "higher"
    margin: float | None = None

    @property
    def rule(self) -> str:
        """The rule in words."""
        if self.margin is None:
            return f"{self.better}, with an interval that excludes 0"
        scale = f"{100 * self.margin:g} pp" if self.unit == "share" else f"{self.margin:g} {self.unit}"
        return f"not worse by {scale}"


class Bench(Protocol):
    """What a measurement works with."""

    @property
    def inputs(self) -> Inputs:
        """Artifacts of the finished recipe, by stage id: those that the claim ``needs``."""
        ...

    @property
    def run(self) -> Run:
        """Seed of this repetition, device, progress, and a ``state`` folder that a kill leaves alone."""
        ...

    def make(
        self, stage: Callable[[Any, Inputs, Run], Summary], kind: Kind, config: StageConfig, inputs: Inputs
    ) -> Artifact:
        """What ``stage`` makes under this seed; made once, whichever claims ask for it."""
        ...


Measure = Callable[[Any, Bench], Measured]


@dataclass(frozen=True)
class Claim:
    """One claim of the report. ``version`` goes up when ``measure`` would give another result for the same config."""

    id: str
    family: str
    statement: str
    where: str
    design: str
    needs: tuple[str, ...]
    config: StageConfig
    measure: Measure
    contrasts: tuple[Contrast, ...]
    """The first one is the headline; all of them must hold."""
    version: int = 1


__all__ = ["Bench", "Claim", "Contrast", "Measure", "Measured", "Scores"]
