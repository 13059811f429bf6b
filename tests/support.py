"""What the tests of stages share: a run and artifacts made of plain objects."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from components.stage import Layout, Summary


class CountingProgress:
    """Counts instead of drawing."""

    def __init__(self, start: int) -> None:
        self.done = start

    def advance(self, amount: int = 1, **fields: float | str) -> None:
        self.done += amount


@dataclass
class PlainRun:
    """A ``components.stage.Run`` that keeps everything in memory and in two folders."""

    output: Path
    state: Path
    seed: int = 0
    device: str = "cpu"
    layout: Layout = field(default_factory=Layout)
    ceiling: float = 0.0
    recorded: list[tuple[int | None, dict[str, float]]] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        self.recorded.append((step, dict(values)))

    def info(self, message: str) -> None:
        self.messages.append(message)

    @contextmanager
    def progress(self, total: int, description: str, *, unit: str = "it", start: int = 0) -> Iterator[CountingProgress]:
        yield CountingProgress(start)


@dataclass(frozen=True)
class PlainArtifact:
    """A ``components.stage.Artifact`` over any folder."""

    kind: str
    path: Path
    summary: Summary = field(default_factory=dict)
    digest: str = "0" * 64


def make_run(folder: Path, seed: int = 0) -> PlainRun:
    """A run with fresh ``output`` and ``state`` folders under ``folder``."""
    output, state = folder / "output", folder / "state"
    output.mkdir(parents=True, exist_ok=True)
    state.mkdir(parents=True, exist_ok=True)
    return PlainRun(output=output, state=state, seed=seed)


def make_artifact(kind: str, path: Path, summary: Summary | None = None) -> PlainArtifact:
    """An artifact handle for a folder that a stage has written."""
    return PlainArtifact(kind=kind, path=path, summary=summary or {})
