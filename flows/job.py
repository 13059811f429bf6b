"""One run of a recipe: everything that its stages share, and what became of each."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel

from flows.records import Records
from flows.stages import Stage
from flows.terminal import Display
from infra.settings import Settings
from infra.store import ArtifactStore


@dataclass(frozen=True)
class Outcome:
    """What a stage left behind."""

    stage: str
    digest: str
    state: Literal["done", "cached"]
    seconds: float
    summary: dict[str, Any]


@dataclass
class Job:
    """The recipe, the stages to go through and the services that they need."""

    name: str
    recipe: BaseModel
    seed: int
    stages: Sequence[Stage]
    settings: Settings
    store: ArtifactStore
    records: Records
    display: Display
    redo: Collection[str] = ()
    running: str = ""  # the stage at work, for whoever has to say where a run stopped
    outcomes: dict[str, Outcome] = field(default_factory=dict)


__all__ = ["Job", "Outcome"]
