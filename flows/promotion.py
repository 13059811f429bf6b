"""``qwenforge promote``: an alias moves to a checkpoint only if a fixed suite does not find it significantly worse.

The command line and the dashboard go the same way: a promotion is entered in the catalog, measured by a process (this
command, or ``python -m flows.promotion ID`` for the dashboard), and decided there, by the rules of ``Gates``.
"""

import getpass
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.stage import StageError
from flows.benchmarks import print_differences, run_tasks
from flows.checkpoints import find_checkpoint, find_digest
from flows.errors import UsageError, describe, message
from flows.stage_run import ReportedBar
from flows.terminal import Bar, Display, stdout
from infra.catalog import Catalog
from infra.catalog.gates import SHORTEST_REASON, Gates
from infra.catalog.models import Gate
from infra.errors import MissingArtifact
from infra.settings import Settings, load_settings
from infra.store import ArtifactStore, open_store

if TYPE_CHECKING:
    import pandas as pd

SUITE: dict[str, Any] = {"tasks": ("python_reference", "mmlu", "reasoning"), "limit": 160, "max_new_tokens": 64}
"""Language modelling, knowledge and reasoning; minutes on two cores for a model of 135M parameters."""
VERSION = 1
"""Of the suite: raised when anything in it changes, so that no old measurement is compared with a new one."""
ALPHA = 0.05
"""Chance of refusing a checkpoint that is no worse, over all metrics together (Holm)."""


class Refused(StageError):
    """The suite found the checkpoint significantly worse. ``figures``: what ``--json`` would have printed."""

    def __init__(self, message: str, figures: dict[str, Any]) -> None:
        super().__init__(message)
        self.figures = figures


def promote_command(name: str, alias: str, *, override: str = "", display: Display | None = None) -> dict[str, Any]:
    """Measure, compare, move the alias; written down either way. ``override``: why to move it whatever is found.

    Raises ``Refused`` where the suite finds a fall and there is no such reason.
    """
    settings = load_settings()
    store = open_store(settings)
    if override and len(override.strip()) < SHORTEST_REASON:
        raise UsageError(f"--override {override!r}: say why, in at least {SHORTEST_REASON} letters")
    if Path(name).is_dir():
        raise UsageError(f"{name} is a folder; an alias needs an artifact of the store: qwenforge import {name}")
    find_checkpoint(name, settings, store)  # refuses what is no checkpoint
    digest = find_digest(name, settings, store)
    gates = Gates(settings.catalog_url)
    if Catalog(settings.catalog_url).resolve_alias(alias) == digest:
        return {"alias": alias, "from": digest, "to": digest, "moved": False, "differences": [], "worse": []}
    who = getpass.getuser()
    gate = gates.ask(alias, digest, who=who)
    try:
        gate = decide(gates, gate.id, settings, store, display or Display())
    except MissingArtifact:
        if not override:  # else what it means now is gone: nothing can be compared, and the alias is of no use
            raise
    if gate.state != "passed" and override:
        gates.override(gate.id, who=who, reason=override)
    elif gate.state == "refused":
        raise Refused(refusal(gate), as_dict(gate) | {"moved": False})
    return as_dict(gate) | {"moved": True, "override": override if gate.state != "passed" else ""}


def check_alias(alias: str) -> None:
    """UsageError for the aliases that follow every run by themselves."""
    from components.serving.export import ALIASES

    if alias in ALIASES:
        raise UsageError(f"--promote {alias}: this alias follows every run; choose another, such as live")


def decide(gates: Gates, gate_id: int, settings: Settings, store: ArtifactStore, display: Display) -> Gate:
    """Measure both checkpoints of a promotion that waits, and enter the verdict; a passed one moves the alias."""
    gate = gates.start(gate_id, suite=VERSION)
    try:
        if gate.before is None:
            return gates.decide(gate.id, [], [])  # nothing to be worse than
        if not store.exists(gate.before):
            raise MissingArtifact(
                f"alias {gate.alias} means artifact {gate.before[:12]}, which is no longer in the store"
            )
        reported = ReportedDisplay(display, gates, gate.id)
        with display.live():
            after, before = (measured(one, settings, store, reported) for one in (gate.after, gate.before))
        return gates.decide(gate.id, **judge(after, before))
    except BaseException as error:
        gates.fail(gate.id, describe(error))
        raise


def judge(after: "pd.DataFrame", before: "pd.DataFrame") -> dict[str, Any]:
    """The differences of all metrics that both have, and those that are worse beyond chance."""
    from components.evaluation.harness.measure import compare

    differences = compare(after, before, seed=0)
    return {
        "differences": differences,
        "worse": [row["metric"] for row in differences if row["worse_p_holm"] <= ALPHA],
    }


def measured(digest: str, settings: Settings, store: ArtifactStore, display: Display) -> "pd.DataFrame":
    """Items of the suite on a checkpoint, from the home folder where it has been measured before."""
    import pandas as pd

    file = settings.home / "promotions" / f"{digest}-{VERSION}.parquet"
    if file.is_file():
        return pd.read_parquet(file)
    display.line(f"measuring {digest[:12]}")
    items, _ = run_tasks(
        digest, SUITE["tasks"], settings, store, display, limit=SUITE["limit"], max_new_tokens=SUITE["max_new_tokens"]
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    items.to_parquet(partial, index=False)
    partial.replace(file)
    return items


class ReportedDisplay(Display):
    """A display whose bars are also written into the catalog, for those who look at the dashboard."""

    def __init__(self, display: Display, gates: Gates, gate_id: int) -> None:
        super().__init__(display.console)
        self._display, self._gates, self._gate_id = display, gates, gate_id
        self._checkpoint = ""

    def line(self, message: str) -> None:
        self._checkpoint = message
        self._display.line(message)

    @contextmanager
    def progress(self, total: int, description: str, *, unit: str = "it", start: int = 0) -> Iterator[Bar]:
        def report(doing: str, share: float, seconds_left: float | None) -> bool:
            return self._gates.note_progress(self._gate_id, f"{self._checkpoint}: {doing}", share)

        with self._display.progress(total, description, unit=unit, start=start) as bar:
            yield ReportedBar(bar, report, description, total, start)  # type: ignore[misc]


def refusal(gate: Gate) -> str:
    """What fell and by how much, in one line."""
    falls = [
        f"{row['metric']} {row['difference']['value']:+.4g} [{row['difference']['low']:+.4g}, "
        f"{row['difference']['high']:+.4g}], p {row['worse_p_holm']:.4f}"
        for row in gate.differences
        if row["metric"] in gate.worse
    ]
    return (
        f"{gate.after[:12]} is worse than {gate.alias} ({str(gate.before)[:12]}): {'; '.join(falls)}. The alias stays; "
        "--override 'REASON' moves it all the same, and the reason is in the audit"
    )


def as_dict(gate: Gate) -> dict[str, Any]:
    """What ``--json`` prints."""
    return {
        "gate": gate.id, "alias": gate.alias, "from": gate.before, "to": gate.after, "user": gate.who,
        "suite": gate.suite, "verdict": gate.state, "differences": gate.differences, "worse": gate.worse,
    }  # fmt: skip


def print_promotion(done: dict[str, Any]) -> None:
    """What was compared and what happened."""
    if done["differences"]:
        print_differences(f"against {done['from'][:12]}, which {done['alias']} meant", done["differences"])
    if not done["moved"]:
        stdout().print(f"{done['alias']} means {done['to'][:12]} already")
        return
    how = f", although the gate {done['verdict']}: {done['override']}" if done["override"] else ""
    stdout().print(f"{done['alias']} now means {done['to'][:12]}{how}")


def main(gate_id: int) -> int:
    """The job behind the dashboard's button: measure and decide a promotion that was asked for there."""
    os.nice(10)  # nobody waits for it as for a page
    settings = load_settings()
    try:
        gate = decide(Gates(settings.catalog_url), gate_id, settings, open_store(settings), Display())
    except Exception as error:
        print(message(error), file=sys.stderr)
        return 1
    print(f"{gate.alias}: {gate.state}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))

__all__ = ["Refused", "decide", "judge", "print_promotion", "promote_command"]
