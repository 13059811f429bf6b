"""What ``qwenforge deploy`` asks of Prefect, with a real server, a real worker and a real S3 server."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import boto3
import httpx
import psutil
import pytest
from s3_server import KEYS, make_bucket, s3_server
from sockets import free_port
from waiting import wait_for

from benchmarks.tiny_recipe import TINY
from flows.watch import Watcher
from flows.worker import MOST_STARTS, recover

ROOT = Path(__file__).parents[2]
POOL = "qwenforge"
pytestmark = pytest.mark.timeout(900)  # beside whatever else the machine does
CORPUS = """
[[source]]
name = "arriving"
kind = "path"
path = "{data}"
format = "text"
licence = "CC0-1.0"
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def environment(home) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "QWENFORGE_"))}
    port = free_port()
    return own | {
        "QWENFORGE_HOME": str(home), "PREFECT_HOME": str(home / "prefect"), "PYTHONPATH": str(ROOT),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api", "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_ENABLED": "false", "PREFECT_WORKER_WEBSERVER_PORT": str(free_port()),
        "PREFECT_WORKER_QUERY_SECONDS": "1", "DO_NOT_TRACK": "1", "OMP_NUM_THREADS": "1",
    }  # fmt: skip


@pytest.fixture(scope="module")
def api(environment, home) -> Iterator[str]:
    """Prefect's server."""
    url = environment["PREFECT_API_URL"]
    command = [sys.executable, "-m", "prefect", "server", "start", "--port", url.split(":")[2].split("/")[0]]
    with (home / "server.log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        wait_for(lambda: answers(f"{url}/health"), 600)
        yield url
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture(scope="module")
def client(api):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: api}), get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
        yield client


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    """Its documents are in the folder ``data`` beside it."""
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "data").mkdir()
    (folder / "corpus.toml").write_text(CORPUS.format(data=folder / "data"))
    path = folder / "tiny.toml"
    path.write_text(TINY.replace("{recipes}", str(ROOT / "recipes")).replace("{corpus}", str(folder / "corpus.toml")))
    return path


class Command:
    """``qwenforge`` as a user runs it, against this server."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment

    def __call__(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "flows.cli", *arguments], cwd=ROOT, env=self.environment, capture_output=True,
            text=True, timeout=600,
        )  # fmt: skip
        assert done.returncode == code, done.stderr[-3000:] + done.stdout[-3000:]
        return done

    def deploy(self, recipe: Path, *arguments: str) -> dict[str, Any]:
        return json.loads(self("deploy", str(recipe), "--until", "ingest", *arguments, "--json").stdout)


@pytest.fixture(scope="module")
def command(environment, client) -> Command:
    return Command(environment)


@pytest.fixture
def worker(environment, client, home) -> Iterator[subprocess.Popen]:
    with (home / "worker.log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.worker", POOL], cwd=ROOT, env=environment, stdout=log, stderr=log
        )
    yield process
    process.terminate()
    process.wait(180)


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).is_success
    except httpx.HTTPError:
        return False


@pytest.fixture
def told() -> Iterator[tuple[str, list[str]]]:
    """A web hook: its address, and what it was sent."""
    sent: list[str] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(204)
            self.end_headers()

        def log_message(self, *arguments: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/hook", sent
    server.shutdown()


def test_a_failed_run_is_told_through_the_block_that_was_named(command, client, recipe, worker, told):
    from prefect.blocks.notifications import CustomWebhookNotificationBlock

    address, sent = told
    unknown = command("deploy", str(recipe), "--notify", "slack-webhook/nobody", code=2)
    assert "--notify slack-webhook/nobody: no such block" in unknown.stderr and "Traceback" not in unknown.stderr
    hook = CustomWebhookNotificationBlock(name="ops", url=address, json_data={"text": "{{subject}}: {{body}}"})
    hook.save("ops", overwrite=True)
    made = command.deploy(recipe, "--notify", "custom-webhook/ops", "--interval", "6h")
    schedules = client.read_deployment(made["id"]).schedules
    assert [schedule.schedule.interval.total_seconds() for schedule in schedules] == [6 * 3600]

    run = client.create_flow_run_from_deployment(made["id"])  # there is no document: it cannot go well
    wait_for(lambda: client.read_flow_run(run.id).state.is_final())
    assert client.read_flow_run(run.id).state.is_failed()
    text = wait_for(lambda: sent and sent[0])
    assert run.name in text or client.read_flow_run(run.id).name in text
    assert "Failed" in text and str(run.id) in text
    stages = wait_for(lambda: artifact(client, run.id, "stages"))
    (row,) = json.loads(stages)
    assert (row["stage"], row["state"]) == ("ingest", "failed") and row["error"], "also of a run that failed"

    command.deploy(recipe)
    assert not client.read_automations_by_name("qwenforge/tiny: failures"), "what is not asked for any more is gone"


def artifact(client: Any, flow_run_id: Any, key: str) -> str:
    body = {"flow_runs": {"id": {"any_": [str(flow_run_id)]}}, "artifacts": {"key": {"any_": [key]}}}
    found = client._client.post("/artifacts/filter", json=body).json()
    return found[0]["data"] if found else ""


def test_data_that_arrives_in_a_folder_starts_one_run_for_each_content(command, client, recipe):
    data = recipe.parent / "data"
    made = command.deploy(recipe, "--watch", str(data))
    assert made["watch"] == str(data)
    watcher = Watcher(client, settle=1.0)
    assert watcher.look() == []
    time.sleep(1.1)
    assert watcher.look() == [], "an empty folder is no data"
    (data / "one.txt").write_text("One document.\n")
    assert watcher.look() == [], "it may still be written"
    (data / "two.txt").write_text("Another document.\n")
    time.sleep(0.6)
    assert watcher.look() == []
    time.sleep(0.6)
    assert watcher.look() == [], "the second file came later"
    time.sleep(0.6)
    (first,) = watcher.look()
    assert client.read_flow_run(first).deployment_id == client.read_deployment(made["id"]).id
    assert "data-arrived" in client.read_flow_run(first).tags
    assert watcher.look() == []

    (data / "one.txt").touch()  # the same content at another time
    (data / ".two.txt.part").write_text("hidden")
    again = Watcher(client, settle=0.0)  # a process that knows nothing of before
    assert again.look() == [first], "Prefect gives the run that there is"
    (data / "two.txt").write_text("Another document, changed.\n")
    (second,) = again.look()
    assert second != first
    client.pause_deployment(made["id"])
    (data / "three.txt").write_text("A third document.\n")
    assert again.look() == []


def test_data_that_arrives_in_a_bucket_starts_a_run(command, client, recipe, tmp_path, monkeypatch):
    from components.data import locations

    with s3_server(tmp_path / "s3", [free_port() for _ in range(8)]) as address:
        for name, value in (KEYS | {"AWS_ENDPOINT_URL_S3": address, "AWS_DEFAULT_REGION": "us-east-1"}).items():
            monkeypatch.setenv(name, value)
        locations.client.cache_clear()
        bucket = boto3.Session().client("s3")
        make_bucket(bucket, "arrivals")
        other = recipe.parent / "bucket.toml"
        other.write_text(recipe.read_text().replace('name = "tiny"', 'name = "bucket"'))
        made = command.deploy(other, "--watch", "s3://arrivals/in")
        watcher = Watcher(client, settle=0.0)
        assert watcher.look() == []
        bucket.put_object(Bucket="arrivals", Key="elsewhere/one.txt", Body=b"not below the prefix")
        assert watcher.look() == []
        bucket.put_object(Bucket="arrivals", Key="in/one.txt", Body=b"One document.")
        (first,) = watcher.look()
        assert str(client.read_flow_run(first).deployment_id) == made["id"]
        bucket.put_object(Bucket="arrivals", Key="in/one.txt", Body=b"One document.")
        assert Watcher(client, settle=0.0).look() == [first]
        bucket.put_object(Bucket="arrivals", Key="in/one.txt", Body=b"Changed.")
        assert watcher.look() not in ([], [first])
    locations.client.cache_clear()
    assert Watcher(client, settle=0.0).look() == [], "a server that is away is no reason to end"
    wrong = command("deploy", str(recipe), "--watch", "ftp://host/x", code=2)
    assert "--watch ftp://host/x: expected a folder or s3://bucket/prefix" in wrong.stderr


def test_accelerators_are_limited_for_all_runs_together(command, client, recipe):
    from prefect.exceptions import ObjectNotFound

    command.deploy(recipe, "--accelerators", "2")
    assert client.read_global_concurrency_limit_by_name("tag:accelerator").limit == 2
    command.deploy(recipe, "--accelerators", "1")
    assert client.read_global_concurrency_limit_by_name("tag:accelerator").limit == 1
    command.deploy(recipe, "--accelerators", "0")
    with pytest.raises(ObjectNotFound):
        client.read_global_concurrency_limit_by_name("tag:accelerator")


def test_a_pool_of_containers_is_made_with_its_template_and_secrets_are_blocks(command, client, recipe):
    command.environment |= {"QWENFORGE_S3_SECRET_ACCESS_KEY": "zanzibar-quokka"}
    outside = command("deploy", str(recipe), "--pool", "docker", code=2)
    assert "is not in the checkout" in outside.stderr
    made = json.loads(command("deploy", "recipes/pocket.toml", "--pool", "docker", "--json").stdout)
    del command.environment["QWENFORGE_S3_SECRET_ACCESS_KEY"]
    pool = client.read_work_pool("docker")
    assert pool.type == "docker"
    assert pool.base_job_template == json.loads(Path(made["template"]).read_text())
    assert "zanzibar-quokka" not in json.dumps(pool.base_job_template)
    assert client.read_deployment(made["id"]).parameters["recipe"] == "recipes/pocket.toml"
    block = client.read_block_document_by_name(made["secrets"][0], "secret", include_secrets=True)
    assert block.data["value"] == "zanzibar-quokka"


def test_a_run_that_lives_is_left_alone_and_what_cannot_go_on_is_ended(client, tmp_path):
    from prefect import flow
    from prefect.states import Cancelling, Running

    @flow
    def nothing() -> None: ...

    def started(state: Any, starts: int = 1) -> Any:
        run = client.create_flow_run(nothing)
        for _ in range(starts):
            client.set_flow_run_state(run.id, Running(), force=True)
        client.set_flow_run_state(run.id, state, force=True)
        (tmp_path / "flow-runs" / str(run.id)).touch()
        return run

    (tmp_path / "flow-runs").mkdir()
    cancelled, hopeless = started(Cancelling()), started(Running(), MOST_STARTS)
    (tmp_path / "flow-runs" / str(uuid.uuid4())).touch()  # of another server
    hold = "import sys, time; from pathlib import Path; from flows.worker import alive\nwith alive(Path(sys.argv[1]), sys.argv[2]): print('on', flush=True); time.sleep(60)"  # noqa: E501
    living = started(Running())
    with subprocess.Popen(
        [sys.executable, "-c", hold, tmp_path, str(living.id)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "on\n"
        assert sorted(recover(client, tmp_path)) == sorted([(cancelled.name, "Cancelled"), (hopeless.name, "Crashed")])
        assert client.read_flow_run(living.id).state.is_running()
        process.kill()
    assert recover(client, tmp_path) == [(living.name, "AwaitingRetry")]
    assert not list((tmp_path / "flow-runs").iterdir())


def test_what_a_killed_worker_leaves_is_scheduled_again_and_ends_well(command, client, recipe, environment, home):
    (recipe.parent / "data" / "one.txt").write_text("A text that no other run has seen, so there is work.\n" * 50)
    made = command.deploy(recipe)
    client.resume_deployment(made["id"])
    with (home / "worker.log").open("a") as log:
        first = subprocess.Popen(
            [sys.executable, "-m", "flows.worker", POOL], cwd=ROOT, env=environment, stdout=log, stderr=log
        )
    run = client.create_flow_run_from_deployment(made["id"])
    wait_for(lambda: (home / "flow-runs" / str(run.id)).exists(), pause=0.02)
    for process in [*psutil.Process(first.pid).children(recursive=True), psutil.Process(first.pid)]:
        process.send_signal(signal.SIGKILL)
    first.wait()
    assert client.read_flow_run(run.id).state.is_running(), "nobody has told Prefect"
    assert [path.name for path in (home / "flow-runs").iterdir()] == [str(run.id)]
    with (home / "worker.log").open("a") as log:
        second = subprocess.Popen(
            [sys.executable, "-m", "flows.worker", POOL], cwd=ROOT, env=environment, stdout=log, stderr=log
        )
    try:
        wait_for(lambda: client.read_flow_run(run.id).state.is_final())
        ended = client.read_flow_run(run.id)
        assert ended.state.is_completed(), (home / "worker.log").read_text()[-3000:]
        assert ended.run_count == 2
    finally:
        second.terminate()
        second.wait(180)
