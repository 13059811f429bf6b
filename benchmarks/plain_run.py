"""Stages without orchestration: a run and artifacts made of folders, for benchmarks that time or test single stages."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.stage import Layout, StageConfig, Summary


class NoProgress:
    """Shows nothing."""

    def advance(self, amount: int = 1, **fields: float | str) -> None:
        return


@dataclass(frozen=True)
class FolderArtifact:
    """A ``components.stage.Artifact`` over any folder."""

    path: Path
    kind: str = "corpus"
    digest: str = "0" * 64
    summary: Summary = field(default_factory=dict)


@dataclass(frozen=True)
class FolderRun:
    """A ``components.stage.Run`` that says nothing."""

    output: Path
    state: Path
    seed: int = 0
    device: str = "cpu"
    layout: Layout = field(default_factory=Layout)
    ceiling: float = 0.0

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        return

    def info(self, message: str) -> None:
        return

    @contextmanager
    def progress(self, total: int, description: str, *, unit: str = "it", start: int = 0) -> Iterator[NoProgress]:
        yield NoProgress()


def run_stage(
    stage: Callable[..., Summary], config: StageConfig, folder: Path, seed: int = 0, **inputs: Path
) -> FolderArtifact:
    """Run a stage in a fresh ``folder``; its output as an artifact with its summary."""
    run = FolderRun(folder / "output", folder / "state", seed)
    run.output.mkdir(parents=True)
    run.state.mkdir()
    artifacts: dict[str, Any] = {name: FolderArtifact(path) for name, path in inputs.items()}
    return FolderArtifact(run.output, summary=stage(config, artifacts, run))
