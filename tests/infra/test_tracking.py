"""MLflow runs in the embedded database and on a real HTTP server that goes away and comes back."""

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from infra_support import free_port
from mlflow import MlflowClient
from werkzeug.serving import BaseWSGIServer, make_server

from infra.errors import InfraError
from infra.tracking import Tracking


@pytest.fixture(scope="module")
def database(tmp_path_factory) -> str:
    """One database for the module: making it takes most of the time."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture
def open_tracking(database, tmp_path) -> Iterator[Callable[..., Tracking]]:
    opened = []

    def opener(uri: str = database, **options) -> Tracking:
        opened.append(Tracking(uri, artifact_root=tmp_path / "mlartifacts", **options))
        return opened[-1]

    yield opener
    for tracking in opened:
        tracking.close(timeout=0.2)


def journals(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "mlflow-journal").glob("*.jsonl"))


def test_a_recipe_with_a_nested_stage(open_tracking, database, tmp_path, capfd):
    tracking = open_tracking()
    recipe = tracking.start_recipe_run("pocket", {"model": {"layers": 6}}, {"recipe_digest": "r" * 64})
    stage = recipe.start_stage("pretrain", {"learning_rate": 1e-3})
    for step in range(2500):  # over the size of one batch
        stage.log_metrics({"loss": 5.0 - step / 1000, "learning_rate": 1e-3}, step=step)
    stage.log_dataset("shards", "a" * 64, "s3://bucket/objects/a", "train", profile="4 tokens")
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "loss.txt").write_text("falls")
    stage.log_artifact_files(tmp_path / "plots", folder="plots")
    stage.register_checkpoint("pocket", "base", "b" * 64, "file:///store/b")
    stage.end("completed")
    recipe.end()
    assert tracking.flush(30)

    client = MlflowClient(database)
    parent, child = client.get_run(recipe.run_id), client.get_run(stage.run_id)
    assert (parent.info.run_name, parent.data.params, parent.info.status) == (
        "pocket",
        {"model.layers": "6"},
        "FINISHED",
    )
    assert parent.data.tags["recipe_digest"] == "r" * 64
    assert child.data.tags["mlflow.parentRunId"] == recipe.run_id
    assert (child.data.params, child.info.status) == ({"learning_rate": "0.001"}, "FINISHED")
    history = client.get_metric_history(stage.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(step, 5.0 - step / 1000) for step in range(2500)]
    (dataset,) = child.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest, dataset.dataset.source) == (
        "shards", "a" * 36, "s3://bucket/objects/a",
    )  # fmt: skip
    assert dataset.tags[0].value == "train"
    assert (tmp_path / "mlartifacts" / stage.run_id / "artifacts" / "plots" / "loss.txt").read_text() == "falls"
    tracking.close()
    assert journals(tmp_path) == []
    assert capfd.readouterr().err == ""  # neither MLflow nor Alembic chatters


def test_logging_never_waits(open_tracking):
    stage = open_tracking().start_recipe_run("pocket")
    began = time.perf_counter()
    for step in range(1000):
        stage.log_metrics({"loss": 1.0}, step)
    assert (time.perf_counter() - began) / 1000 < 1e-3
    stage.end()


def test_aliases_follow_the_newest_checkpoint_and_a_digest_has_one_version(open_tracking, database):
    tracking = open_tracking()
    run = tracking.start_recipe_run("pocket")
    for alias, digest in [("sft", "c"), ("dpo", "d"), ("sft", "e"), ("rl", "c")]:
        run.register_checkpoint("aliases", alias, digest * 64, f"file:///store/{digest}")
    run.end()
    assert tracking.flush(30)
    client = MlflowClient(database)
    found = {alias: client.get_model_version_by_alias("aliases", alias) for alias in ("sft", "dpo", "rl")}
    assert {alias: version.tags["digest"][0] for alias, version in found.items()} == {"sft": "e", "dpo": "d", "rl": "c"}
    assert len(client.search_model_versions("name = 'aliases'")) == 3
    assert found["sft"].run_id == run.run_id


def test_what_mlflow_refuses_is_logged_and_does_not_hold_up_the_rest(open_tracking, database, caplog):
    tracking = open_tracking()
    run = tracking.start_recipe_run("pocket", {"seed": 1})
    run.log_params({"seed": 2})  # MLflow's parameters cannot change
    run.log_artifact_files(Path("/nowhere/at/all"))
    run.log_metrics({"loss": float("nan"), "accuracy": 0.5, "lift (95%)": 0.1}, 1)
    run.end("failed")
    with caplog.at_level(logging.WARNING):
        assert tracking.flush(30)
    assert "MLflow has refused 'batch'" in caplog.text
    assert "MLflow has refused 'files'" in caplog.text
    found = MlflowClient(database).get_run(run.run_id)
    assert (found.info.status, found.data.params, found.data.metrics["accuracy"]) == ("FAILED", {"seed": "1"}, 0.5)
    assert found.data.metrics["lift _95__"] == 0.1  # a name that MLflow would refuse


def test_a_killed_process_loses_at_most_the_last_second_and_its_run_is_closed(open_tracking, database, tmp_path):
    script = (
        "import os, sys, time; from pathlib import Path; from infra.tracking import Tracking;"
        "t = Tracking(sys.argv[1], artifact_root=Path(sys.argv[2])); r = t.start_recipe_run('killed');"
        "s = r.start_stage('pretrain'); [s.log_metrics({'loss': 1.0}, step) for step in range(10)];"
        "time.sleep(2.5); s.log_metrics({'loss': 1.0}, 10); print(r.run_id, s.run_id, flush=True);"
        "os.kill(os.getpid(), 9)"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", script, database, str(tmp_path / "mlartifacts")]
    output = subprocess.run(command, env=env, capture_output=True, text=True)
    assert output.returncode == -9, output.stderr
    recipe_id, stage_id = output.stdout.split()
    client = MlflowClient(database)
    assert client.get_run(recipe_id).info.status == "RUNNING"
    tracking = open_tracking()
    tracking.start_recipe_run("next").end()
    assert tracking.flush(30)
    assert [client.get_run(run_id).info.status for run_id in (recipe_id, stage_id)] == ["KILLED", "KILLED"]
    assert len(client.get_metric_history(stage_id, "loss")) >= 10


class Server:
    """MLflow's own web application on a port that can be closed and opened again."""

    def __init__(self, database: str, artifacts: Path) -> None:
        import mlflow.server as mlflow_server

        os.environ[mlflow_server.BACKEND_STORE_URI_ENV_VAR] = database
        os.environ[mlflow_server.ARTIFACT_ROOT_ENV_VAR] = "mlflow-artifacts:/"
        os.environ[mlflow_server.ARTIFACTS_DESTINATION_ENV_VAR] = str(artifacts)
        os.environ[mlflow_server.SERVE_ARTIFACTS_ENV_VAR] = "true"
        self._app = mlflow_server.app
        self._port = free_port()
        self._server: BaseWSGIServer | None = None
        self.url = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        self._server = make_server("127.0.0.1", self._port, self._app, threaded=True)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()
        self._server = None


@pytest.fixture
def server(database, open_tracking, tmp_path, monkeypatch) -> Iterator[Server]:
    open_tracking().start_recipe_run("makes the database").end()
    for name in list(os.environ):
        if name.startswith("_MLFLOW_SERVER"):
            monkeypatch.delenv(name)
    server = Server(database, tmp_path / "served")
    server.start()
    yield server
    if server._server is not None:
        server.stop()


def test_an_outage_loses_nothing(server, open_tracking, database, tmp_path, caplog, capfd):
    tracking = open_tracking(server.url, experiment="served")  # its files go where the server says
    recipe = tracking.start_recipe_run("pocket")
    recipe.log_metrics({"loss": 3.0}, 0)
    assert tracking.flush(30)
    server.stop()
    began = time.perf_counter()
    recipe.log_metrics({"loss": 2.0}, 1)
    assert not tracking.flush(1.5)
    stage = recipe.start_stage("sft")  # is created when the server is back
    stage.log_metrics({"reward": 1.0}, 1)
    (tmp_path / "note.txt").write_text("kept")
    stage.log_artifact_files(tmp_path / "note.txt")
    assert stage.run_id is None
    assert time.perf_counter() - began < 5
    assert "kept meanwhile" in caplog.text
    server.start()
    stage.end()
    recipe.end()
    assert tracking.flush(60)
    client = MlflowClient(database)
    assert [point.value for point in client.get_metric_history(recipe.run_id, "loss")] == [3.0, 2.0]
    assert client.get_run(stage.run_id).data.metrics == {"reward": 1.0}
    assert client.get_run(stage.run_id).data.tags["mlflow.parentRunId"] == recipe.run_id
    assert list((tmp_path / "served").rglob("note.txt"))
    assert capfd.readouterr().out == ""


def test_what_an_outage_left_at_the_end_is_sent_by_the_next_process(server, open_tracking, database, tmp_path):
    tracking = open_tracking(server.url)
    recipe = tracking.start_recipe_run("pocket")
    server.stop()
    recipe.log_metrics({"loss": 2.0}, 1)
    stage = recipe.start_stage("sft")
    stage.log_metrics({"reward": 1.0}, 1)
    stage.end()
    recipe.end()
    tracking.close(timeout=0.5)
    assert len(journals(tmp_path)) == 1
    server.start()
    later = open_tracking(server.url)
    later.start_recipe_run("next").end()
    assert later.flush(30)
    client = MlflowClient(database)
    found = client.get_run(recipe.run_id)
    assert (found.info.status, found.data.metrics) == ("FINISHED", {"loss": 2.0})
    children = client.search_runs([found.info.experiment_id], f"tags.mlflow.parentRunId = '{recipe.run_id}'")
    assert [(run.info.run_name, run.info.status, run.data.metrics) for run in children] == [
        ("sft", "FINISHED", {"reward": 1.0})
    ]
    later.close()
    assert journals(tmp_path) == []


def test_a_place_that_cannot_be_written_is_said_at_once(open_tracking):
    began = time.perf_counter()
    with pytest.raises(InfraError, match=r"cannot make MLflow's database /proc/nowhere/mlflow.db.*QWENFORGE_HOME"):
        open_tracking("sqlite:////proc/nowhere/mlflow.db").start_recipe_run("pocket")
    assert time.perf_counter() - began < 10


def test_no_server_at_the_start_is_one_clear_line(open_tracking):
    with pytest.raises(InfraError, match=r"cannot start a run in MLflow within 0 s: .*QWENFORGE_MLFLOW_URI"):
        open_tracking(f"http://127.0.0.1:{free_port()}", patience=0.3).start_recipe_run("pocket")
