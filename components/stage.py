"""The stage contract: what every stage receives and what it leaves behind.

A stage is a plain function ``stage(config, inputs, run) -> Summary``. It reads the verified folders of its
input artifacts, writes its own files under ``run.output`` and returns a small JSON-able summary. It knows
neither Prefect nor MLflow nor the store: whoever calls it commits ``run.output`` as an immutable artifact.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

Kind = Literal[
    "corpus", "mixture", "tokenizer", "shards", "scaling-law", "checkpoint", "conversations", "preferences",
    "reward-model", "evaluation", "export", "report",
]  # fmt: skip

Summary = dict[str, Any]
"""JSON-able facts about what a stage did. Deterministic: no times, no host facts (those are metrics)."""


class StageConfig(BaseModel):
    """Base of every stage's config: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Layout(StageConfig):
    """How work is spread over processes. It depends on where a recipe runs, so no recipe says it."""

    engine: Literal["torch", "deepspeed"] = "torch"
    world_size: int = Field(1, ge=1, description="processes that share every batch")
    rank: int = Field(0, ge=0, description="which of them this one is")
    zero_stage: Literal[1, 2, 3] = 1
    offload: bool = Field(False, description="optimizer state in host memory")
    sequence_parallel: int = Field(1, ge=1, description="of them, neighbours that share the tokens of every sequence")
    expert_parallel: int = Field(1, ge=1, description="of them, neighbours that share the experts of every layer")
    data_engine: Literal["processes", "ray"] = Field("processes", description="what maps over shards of documents")
    ray_address: str = Field("", description="Ray cluster to join; empty for one of this machine's processors")


class StageError(Exception):
    """A stage cannot go on, for a reason the user can act on. Shown without a traceback."""


class RankDone(BaseException):
    """A rank other than the first has done its part of a stage: what follows training is the first one's work."""


class Artifact(Protocol):
    """A committed artifact whose files have been verified and are readable at ``path``."""

    @property
    def kind(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def path(self) -> Path: ...
    @property
    def summary(self) -> Summary: ...


Inputs = Mapping[str, Artifact]


class Progress(Protocol):
    """One progress bar."""

    def advance(self, amount: int = 1, **fields: float | str) -> None:
        """Move on by ``amount`` and show ``fields`` (loss=3.2) beside the bar."""
        ...


class Run(Protocol):
    """What a stage may ask of the outside world."""

    @property
    def seed(self) -> int: ...
    @property
    def device(self) -> str:
        """Torch device name: ``cpu`` or ``cuda``."""
        ...

    @property
    def layout(self) -> Layout:
        """How stages are to spread over processes."""
        ...

    @property
    def ceiling(self) -> float:
        """Matrix products a second that this device reaches, in FLOP/s, measured; 0 where nobody measured."""
        ...

    @property
    def output(self) -> Path:
        """Empty folder; what it holds when the stage returns becomes the artifact."""
        ...

    @property
    def state(self) -> Path:
        """Folder that outlives a kill of this very stage (same cache key): resume from here."""
        ...

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Record measured values (loss, tokens per second); may depend on time and host."""
        ...

    def info(self, message: str) -> None:
        """One readable log line."""
        ...

    def progress(
        self, total: int, description: str, *, unit: str = "it", start: int = 0
    ) -> AbstractContextManager[Progress]: ...


@dataclass
class QuietRun:
    """A ``Run`` without display or tracking, for work inside a stage: one of many small trainings, a part of a whole.

    It is always one process: trials are small and many.
    """

    output: Path
    state: Path
    seed: int
    device: str = "cpu"
    layout: Layout = field(default_factory=Layout)
    ceiling: float = 0.0

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None: ...

    def info(self, message: str) -> None: ...

    def advance(self, amount: int = 1, **fields: float | str) -> None: ...

    @contextmanager
    def progress(self, total: int, description: str, *, unit: str = "it", start: int = 0) -> Iterator["QuietRun"]:
        yield self


def effect(
    name: str, value: float, baseline: float, *, unit: str = "share",
    better: Literal["higher", "lower"] = "higher", low: float | None = None, high: float | None = None,
    note: str = "",
) -> dict[str, Any]:  # fmt: skip
    """One measured effect of a stage beside its baseline, for ``summary["effects"]`` and the report card.

    ``low`` and ``high`` bound the 95% interval of ``value - baseline`` where one was computed.
    """
    return {
        "name": name, "value": float(value), "baseline": float(baseline), "unit": unit, "better": better,
        "low": low, "high": high, "note": note,
    }  # fmt: skip


__all__ = [
    "Artifact", "Inputs", "Kind", "Layout", "Progress", "QuietRun", "RankDone", "Run", "StageConfig",
    "StageError", "Summary", "effect",
]  # fmt: skip
