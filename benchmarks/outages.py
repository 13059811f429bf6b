"""Hypothesis: a deployed run lives through an S3 server that is stopped for a minute, a Postgres that restarts, an
MLflow that is down for a whole stage and a worker that is killed, and ends with all metrics and artifacts.

A stack of its own with free ports, and the smallest recipe up to ``pretrain``. First the recipe is run without any
stack: its artifact digests and its metric points (stage, name, step) are what the other run must have in the end, read
back from S3 by a reader without a copy and from MLflow's database. Then it is deployed and started, and as it comes to

- ``clean``: the S3 server is stopped for ``--seconds``;
- ``quality``: Postgres (of catalog, Prefect and MLflow) is restarted;
- ``scaling``: MLflow is stopped until the next stage has begun;
- ``pretrain``: once checkpoints are written, worker and run are killed with -9; the next worker takes the run up again.

    qwenforge bench outages [--seconds 60] [--json FILE]
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parent.parent
UNTIL = ("--until", "pretrain", "--set", "pretrain.tokens=200000", "--set", "pretrain.checkpoint_every=10")
LONGEST = 1800.0  # seconds

Point = tuple[str, str, int]
"""Stage, metric, step."""


def main(given: list[str] | None = None) -> int:
    """Print what was taken away when, and whether all is there in the end; exit code 1 where something is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the S3 server is away")
    parser.add_argument("--json", type=Path, help="write the result here")
    arguments = parser.parse_args(given)
    with TemporaryDirectory(prefix="qwenforge-outages-") as scratch:
        result = measure(Path(scratch), arguments.seconds)
    for line in result["outages"]:
        print(f"{line['at']:>7.1f} s  {line['stage']:<10} {line['what']}")
    print(f"{result['state']} after {result['seconds']:.0f} s in {result['starts']} starts; "
          f"{result['artifacts']} of {result['artifacts_expected']} artifacts, "
          f"{result['points']:,} of {result['points_expected']:,} metric points")  # fmt: skip
    if arguments.json:
        from infra.hardware import describe_host

        facts = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "host": describe_host()}
        arguments.json.write_text(json.dumps(facts | result, indent=1) + "\n")
    return 0 if is_whole(result) else 1


def is_whole(result: dict[str, Any]) -> bool:
    """Whether the run has ended as if nothing had been."""
    return (
        result["state"] == "Completed"
        and result["artifacts"] == result["artifacts_expected"]
        and result["points"] == result["points_expected"]
    )


def measure(folder: Path, seconds: float) -> dict[str, Any]:
    """Both runs; what was missing in the end, if anything."""
    from benchmarks.tiny_recipe import write_tiny
    from infra.stack import read_place

    (folder / "recipe").mkdir()
    recipe, alone, home = write_tiny(folder / "recipe"), folder / "alone", folder / "stack"
    digests = command(alone, "run", str(recipe), *UNTIL)["stages"]
    expected = points_of(f"sqlite:///{alone / 'mlflow.db'}", set(digests))
    try:
        command(home, "stack", "up", "--free-ports")
        place = read_place(home)
        assert place is not None
        deployed = command(home, "deploy", str(recipe), *UNTIL)
        disturbed = Disturbed(place, deployed["id"], seconds)
        state = disturbed.run()
        deadline = time.monotonic() + 120  # MLflow is told what it has missed
        database = place.database("mlflow", "postgresql+psycopg")
        while not expected <= (found := points_of(database, set(digests))) and time.monotonic() < deadline:
            time.sleep(1)
        return {
            "state": state, "seconds": disturbed.seconds, "starts": disturbed.starts, "outages": disturbed.outages,
            "artifacts": stored(place, digests, folder / "reader"), "artifacts_expected": len(digests),
            "points": len(expected & found), "points_expected": len(expected),
            "missing": sorted(expected - found)[:20],
        }  # fmt: skip
    finally:
        with suppress(subprocess.SubprocessError):
            command(home, "stack", "down", "--volumes", as_json=False)


class Disturbed:
    """One flow run of a deployment, and what is taken away from it."""

    def __init__(self, place: Any, deployment: str, s3_seconds: float) -> None:
        from infra.stack.supervision import Supervision

        self._place, self._s3_seconds = place, s3_seconds
        self._supervision = Supervision(place)
        self._api = place.client_environment()["PREFECT_API_URL"]
        self._deployment = deployment
        self._began = 0.0
        self.flow_run = ""
        self.outages: list[dict[str, Any]] = []
        self.seconds, self.starts = 0.0, 0

    def run(self) -> str:
        """Start it, disturb it, wait for its end; the name of its last state."""
        import httpx

        answer = httpx.post(f"{self._api}/deployments/{self._deployment}/create_flow_run", json={}, timeout=30)
        self.flow_run, self._began = answer.json()["id"], time.monotonic()
        for stage, disturb in (
            ("clean", self._stop_s3), ("quality", self._restart_postgres), ("scaling", self._stop_mlflow),
            ("pretrain", self._kill_worker),
        ):  # fmt: skip
            self._wait_until(lambda stage=stage: self._reached(stage))
            disturb(stage)
        state = self._wait_until(self._ended)
        self.seconds = time.monotonic() - self._began
        return state

    def _stop_s3(self, stage: str) -> None:
        self._away("s3", self._s3_seconds, stage)

    def _restart_postgres(self, stage: str) -> None:
        self._away("postgres", 1.0, stage)

    def _stop_mlflow(self, stage: str) -> None:
        self._note(stage, "MLflow is stopped")
        self._stop("mlflow")
        self._wait_until(lambda: self._reached("pretrain"))
        self._supervision.start_service("mlflow")
        self._note("pretrain", "MLflow is started")

    def _kill_worker(self, stage: str) -> None:
        import psutil

        self._wait_until(lambda: self._progress("pretrain") > 0.4 or self._ended())
        worker = psutil.Process(self._supervision.processes()["worker"]["pid"])
        for process in [*worker.children(recursive=True), worker]:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        self._note(stage, "worker and run are killed")

    def _away(self, service: str, seconds: float, stage: str) -> None:
        self._note(stage, f"{service} is stopped")
        self._stop(service)
        time.sleep(seconds)
        self._supervision.start_service(service)
        self._note(stage, f"{service} is started")

    def _stop(self, service: str) -> None:
        self._supervision.stop_service(service)
        self._wait_until(lambda: not self._supervision.processes()[service]["pid"])

    def _note(self, stage: str, what: str) -> None:
        self.outages.append({"at": round(time.monotonic() - self._began, 1), "stage": stage, "what": what})

    def _reached(self, stage: str) -> bool:
        """Whether the stage has begun."""
        rows = self._ask("SELECT 1 FROM stages s JOIN runs r ON r.id = s.run_id WHERE r.flow_run_id = %s "
                         "AND s.stage = %s AND s.state <> 'pending'", self.flow_run, stage)  # fmt: skip
        return bool(rows) or bool(self._ended())

    def _progress(self, stage: str) -> float:
        rows = self._ask("SELECT s.progress FROM stages s JOIN runs r ON r.id = s.run_id WHERE r.flow_run_id = %s "
                         "AND s.stage = %s", self.flow_run, stage)  # fmt: skip
        return max((row[0] or 0.0 for row in rows), default=0.0)

    def _ask(self, query: str, *values: str) -> list[Any]:
        """Rows of the catalog; none while Postgres is away."""
        import psycopg

        try:
            with psycopg.connect(self._place.database("catalog"), connect_timeout=5) as connection:
                return connection.execute(query, values).fetchall()  # type: ignore[call-overload]
        except psycopg.OperationalError:
            return []

    def _ended(self) -> str:
        """Name of the last state, once it is one; also counts how often the run was started."""
        import httpx

        with suppress(httpx.HTTPError, ValueError, KeyError):
            found = httpx.get(f"{self._api}/flow_runs/{self.flow_run}", timeout=10).json()
            self.starts = found["run_count"]
            if found["state"]["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
                return found["state"]["name"]
        return ""

    def _wait_until(self, what: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + LONGEST
        while not (found := what()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"after {LONGEST:.0f} s: {self.outages}")
            time.sleep(0.3)
        return found


def command(home: Path, *arguments: str, as_json: bool = True) -> Any:
    """``qwenforge`` with this home; what ``--json`` prints."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "QWENFORGE_"))}
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments, *(["--json"] if as_json else [])], cwd=ROOT,
        env={**own, "QWENFORGE_HOME": str(home)}, capture_output=True, text=True, timeout=LONGEST,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"qwenforge {' '.join(arguments)}: {done.stderr[-3000:]}")
    return json.loads(done.stdout) if as_json else None


def points_of(database: str, stages: set[str]) -> set[Point]:
    """All metric points of these stages in MLflow's database."""
    from sqlalchemy import create_engine, text

    engine = create_engine(database)
    try:
        with engine.connect() as connection:
            rows = connection.execute(
                text("SELECT r.name, m.key, m.step FROM metrics m JOIN runs r ON r.run_uuid = m.run_uuid")
            )
            return {(str(name), str(key), int(step)) for name, key, step in rows if name in stages}
    finally:
        engine.dispose()


def stored(place: Any, digests: dict[str, str], home: Path) -> int:
    """How many of the artifacts are in S3, every byte of them."""
    from infra.errors import InfraError
    from infra.settings import Settings
    from infra.store import open_store

    store = open_store(Settings(**{**place.settings().model_dump(), "home": home}))
    whole = 0
    for digest in digests.values():
        with suppress(InfraError):
            whole += store.open(digest).digest == digest
    return whole
