"""What a running stage gets from outside: folders that survive a kill, progress, metrics, log lines."""

import fcntl
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

from components.stage import Layout
from flows.terminal import Bar, Display
from infra.errors import InfraError
from infra.hardware import measure_matmul_ceiling, resolve_device

MetricSink = Callable[[Mapping[str, float], int | None], None]
ProgressSink = Callable[[str, float, float | None], bool]
"""Takes what is being done, the share that is done and the seconds left; says whether it could write that down."""


@dataclass
class StageRun:
    """A ``components.stage.Run`` on the terminal and in MLflow."""

    seed: int
    output: Path
    state: Path
    device_setting: str
    display: Display
    record: MetricSink
    layout: Layout = field(default_factory=Layout)
    report: ProgressSink | None = None

    @cached_property
    def device(self) -> str:
        """Looked up on demand: only stages that compute with torch wait for its import."""
        return resolve_device(self.device_setting)

    @property
    def ceiling(self) -> float:
        return _ceiling(self.device)

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        self.record(values, step)

    def info(self, message: str) -> None:
        self.display.line(message)

    @contextmanager
    def progress(
        self, total: int, description: str, *, unit: str = "it", start: int = 0
    ) -> "Iterator[Bar | ReportedBar]":
        with self.display.progress(total, description, unit=unit, start=start) as bar:
            yield ReportedBar(bar, self.report, description, total, start) if self.report else bar


class ReportedBar:
    """A bar of the terminal that is also written down now and then, for those who look from elsewhere."""

    EVERY = 2.0  # seconds
    PAUSE = 30.0  # seconds, after a try that failed: whoever writes it down may be waiting for a database

    def __init__(self, bar: Bar, report: ProgressSink, description: str, total: int, start: int) -> None:
        self._bar, self._report, self._description, self._total = bar, report, description, total
        self._start, self._done, self._began = start, start, time.monotonic()
        self._next = 0.0

    def advance(self, amount: int = 1, **fields: float | str) -> None:
        self._bar.advance(amount, **fields)
        self._done += amount
        if self._total and (now := time.monotonic()) >= self._next:
            made = self._done - self._start
            left = (now - self._began) / made * (self._total - self._done) if made > 0 else None
            told = self._report(self._description, min(1.0, self._done / self._total), left)
            self._next = now + (self.EVERY if told else self.PAUSE)


@cache
def _ceiling(device: str) -> float:
    """Measured once in this process, where the first training stage asks for it."""
    return measure_matmul_ceiling(seconds=0.3, device=device)


@contextmanager
def workspace(home: Path, key: str, *, fresh: bool = False) -> Iterator[tuple[Path, Path]]:
    """The folders ``output`` (emptied) and ``state`` (as a killed attempt left it) of the stage with this cache key.

    Both go when the block ends well. After an error only ``output`` goes, which also gives a full disk room to
    write down what happened. One process at a time may work on a key.
    """
    folder = home / "work" / key
    output, state = folder / "output", folder / "state"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            # A record lock: the system frees it with this process, however it ends, and no child inherits it.
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InfraError(f"another run is working on this stage ({folder}); wait for it or stop it") from None
        shutil.rmtree(output, ignore_errors=True)
        if fresh:
            shutil.rmtree(state, ignore_errors=True)
        output.mkdir()
        state.mkdir(exist_ok=True)
        try:
            yield output, state
        except BaseException:
            shutil.rmtree(output, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)


__all__ = ["ReportedBar", "StageRun", "workspace"]
