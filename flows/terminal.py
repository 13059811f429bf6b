"""What a run shows: live bars on a terminal, plain lines anywhere else. The one place that draws.

Everything goes to stderr, so that stdout stays free for results (``--json``, a path to open).
"""

import logging
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

LINE_EVERY = 15.0  # seconds between two progress lines where no bar can be drawn


class Bar:
    """One progress bar of a stage, or its stand-in of occasional lines (``components.stage.Progress``)."""

    def __init__(self, display: "Display", total: int, description: str, unit: str, start: int) -> None:
        self._display, self._total, self._description, self._unit = display, total, description, unit
        self._done, self._first = start, start
        self._started = self._last_line = time.monotonic()
        self._task = None
        if display.bars:
            # A total of 0 means that the stage cannot know it.
            self._task = display.bars.add_task(description, total=total or None, completed=start, unit=unit, note="")

    def advance(self, amount: int = 1, **fields: float | str) -> None:
        self._done += amount
        note = "  ".join(f"{name} {_short(value)}" for name, value in fields.items())
        if self._display.bars and self._task is not None:
            self._display.bars.advance(self._task, amount)
            if note:
                self._display.bars.update(self._task, note=note)
        elif (now := time.monotonic()) - self._last_line >= LINE_EVERY:
            self._last_line = now
            self._display.line(self._as_line(now, note))

    def close(self) -> None:
        if self._display.bars and self._task is not None:
            self._display.bars.remove_task(self._task)

    def _as_line(self, now: float, note: str) -> str:
        rate = (self._done - self._first) / max(now - self._started, 1e-9)
        left = f", {duration((self._total - self._done) / rate)} left" if rate and self._done < self._total else ""
        of = f"/{self._total}" if self._total else ""
        parts = [f"{self._description} {self._done}{of}", f"{_short(rate)} {self._unit}/s{left}", note]
        return "  ".join(part for part in parts if part)


class Display:
    """The terminal of one run: an overall bar, the bars of the current stage, and log lines above them."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False)
        self.bars: Progress | None = None
        self._overall: Any = None

    @contextmanager
    def live(self, stages: int = 0) -> Iterator[None]:
        """Draw bars inside the block, if there is a terminal to draw on; above them one of ``stages``, if there are."""
        if not self.console.is_terminal:
            yield
            return
        columns = (
            TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), _Rate(),
            TimeRemainingColumn(compact=True), TextColumn("{task.fields[note]}", style="dim"),
        )  # fmt: skip
        with Progress(*columns, console=self.console, refresh_per_second=4) as self.bars:
            if stages:
                self._overall = self.bars.add_task("recipe", total=stages, unit="", note="")
            try:
                yield
            finally:
                bars, self.bars = self.bars, None
                for task in bars.task_ids[bool(stages) :]:
                    bars.remove_task(task)

    def stage_begins(self, stage: str, number: int, total: int) -> None:
        if self.bars:
            self.bars.update(self._overall, description=f"recipe: {stage}")
        else:
            self.line(f"{stage} ({number}/{total})")

    def stage_ends(self, stage: str, outcome: str, seconds: float, headline: str) -> None:
        if self.bars:
            self.bars.update(self._overall, advance=1)
        mark = "[green]✓[/]" if outcome == "done" else "[blue]=[/]"
        time_taken = "cached" if outcome == "cached" else duration(seconds)
        self.console.print(f"{mark} [bold]{stage:<14}[/] {time_taken:>8}  ", Text(headline), sep="", soft_wrap=True)

    def line(self, message: str) -> None:
        """One log line above the bars."""
        self.console.print(Text(f"  {message}"), style="dim", soft_wrap=True)

    @contextmanager
    def progress(self, total: int, description: str, *, unit: str = "it", start: int = 0) -> Iterator[Bar]:
        bar = Bar(self, total, description, unit, start)
        try:
            yield bar
        finally:
            bar.close()


class _Rate(ProgressColumn):
    """Completed units a second, smoothed."""

    def render(self, task: Task) -> Text:
        unit, speed = task.fields.get("unit", ""), task.speed
        return Text(f"{_short(speed)} {unit}/s" if unit and speed else "", style="cyan")


class _LogLines(logging.Handler):
    def __init__(self, display: Display) -> None:
        super().__init__(logging.WARNING)
        self._display = display

    def emit(self, record: logging.LogRecord) -> None:
        self._display.line(f"{record.levelname.lower()}: {record.getMessage()}")


def forward_logs(display: Display) -> None:
    """Warnings of this project's own packages become lines of the display; those of libraries are left out."""
    for package in ("flows", "components", "model", "infra"):
        logger = logging.getLogger(package)
        logger.handlers = [_LogLines(display)]
        logger.propagate = False
    warnings.simplefilter("ignore")


def table(title: str, columns: Mapping[str, str], rows: list[list[Any]]) -> Table:
    """A table whose ``columns`` are header -> "left" or "right"."""
    built = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for header, justify in columns.items():
        built.add_column(header, justify="right" if justify == "right" else "left")
    for row in rows:
        built.add_row(*(str(cell) for cell in row))
    return built


def headline(summary: Mapping[str, Any]) -> str:
    """The measured effects of a stage in one line: ``bits per byte 2.31 (baseline 2.80)``."""
    effects = summary.get("effects") or []
    return "; ".join(f"{e['name']} {_short(e['value'])} (baseline {_short(e['baseline'])})" for e in effects[:2])


def duration(seconds: float) -> str:
    """``4.2 s``, ``3 min 05 s``, ``2 h 10 min``, ``12.5 days``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
    if seconds < 2 * 86400:
        return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"
    return f"{seconds / 86400:,.1f} days"


def quantity(value: float, unit: str = "") -> str:
    """``3.1 M``, ``18 T``: three significant digits with an SI prefix."""
    for size, prefix in ((1e24, "Y"), (1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"),
                         (1e3, "k")):  # fmt: skip
        if abs(value) >= size:
            return f"{value / size:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}".rstrip()


def count(value: float) -> str:
    """``3.1 M``, ``72.7 B``, ``18 T``: as models and tokens are counted."""
    return quantity(value).replace(" G", " B")


def stdout() -> Console:
    """Where results go."""
    return Console(file=sys.stdout, highlight=False, soft_wrap=True)


def _short(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


__all__ = ["Bar", "Display", "count", "duration", "forward_logs", "headline", "quantity", "stdout", "table"]
