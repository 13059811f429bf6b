"""Runs of the toy pipeline through the real adapter: Prefect, MLflow, catalog and store, all embedded."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console
from toy import TOY, SumConfig, ToyRecipe

from flows.errors import StageFailed
from flows.run_command import run_pipeline
from flows.terminal import Display
from infra.catalog import Catalog
from infra.settings import Settings
from infra.store import open_store

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> Settings:
    """One home for all tests here (making the databases takes seconds); each test has a seed of its own."""
    return Settings(home=tmp_path_factory.mktemp("home"))


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch):
    import flows.tasks

    monkeypatch.setattr(flows.tasks, "BACKOFF", 0.05)


def go(settings: Settings, seed: int, recipe: ToyRecipe | None = None, **options) -> dict:
    display = Display(Console(file=open(os.devnull, "w")))  # noqa: PTH123, SIM115
    return run_pipeline(recipe or ToyRecipe(), "toy", seed, TOY, settings, display, **options)


def test_first_run_makes_everything_and_a_second_does_nothing(settings):
    first = go(settings, 1)
    assert first["cached"] == []
    assert list(first["stages"]) == ["numbers", "total", "double"]
    artifact = open_store(settings).open(first["stages"]["double"])
    assert (artifact.path / "double.json").read_text() == "180"
    assert not list((settings.home / "work").glob("*")), "folders of finished stages are gone"

    started = time.perf_counter()
    second = go(settings, 1)
    assert second["stages"] == first["stages"]
    assert second["cached"] == ["numbers", "total", "double"]
    assert second["run"] == "", "no run is entered for no work"
    assert time.perf_counter() - started < 5


def test_run_is_in_the_catalog_and_in_mlflow(settings):
    result = go(settings, 2)
    catalog = Catalog(settings.catalog_url)
    run = catalog.get_run(result["run"])
    assert (run.state, run.seed) == ("completed", 2)
    assert run.flow_run_id
    assert [(stage.stage, stage.state) for stage in catalog.stages_of(run.id)] == [
        ("numbers", "completed"), ("total", "completed"), ("double", "completed"),
    ]  # fmt: skip
    assert catalog.resolve_alias("base") == result["stages"]["double"]
    lineage = catalog.lineage(result["stages"]["double"])
    assert {artifact.stage for artifact in lineage.artifacts} == {"numbers", "total", "double"}

    from mlflow import MlflowClient

    client = MlflowClient(settings.tracking_uri, settings.tracking_uri)
    experiment = client.get_experiment_by_name("qwenforge").experiment_id
    nested = client.search_runs([experiment], f"tags.mlflow.parentRunId = '{run.mlflow_run_id}'")
    assert {stage.info.run_name for stage in nested} == {"numbers", "total", "double"}
    total = next(stage for stage in nested if stage.info.run_name == "total")
    assert total.info.status == "FINISHED"
    assert total.data.metrics["seen"] == 10
    assert [entry.dataset.name for entry in total.inputs.dataset_inputs] == ["numbers"]
    version = client.get_model_version_by_alias("qwenforge", "base")
    assert version.tags["digest"] == result["stages"]["double"]


def test_changed_config_redoes_only_what_depends_on_it(settings):
    before = go(settings, 3)
    after = go(settings, 3, ToyRecipe(double=SumConfig(once=str(Path(__file__)))))
    assert after["cached"] == ["numbers", "total"]
    assert after["stages"]["total"] == before["stages"]["total"]
    assert after["stages"]["double"] != before["stages"]["double"], "another config is another origin"


def test_redo_gives_the_same_digests(settings):
    before = go(settings, 4)
    after = go(settings, 4, redo={"total", "double"})
    assert after["cached"] == ["numbers"]
    assert after["stages"] == before["stages"]


def test_deleted_artifact_is_made_again(settings):
    before = go(settings, 5)
    open_store(settings).delete(before["stages"]["total"])
    after = go(settings, 5)
    assert after["stages"] == before["stages"]
    assert "total" not in after["cached"]


@pytest.mark.parametrize(
    ("fail", "expected"),
    [("stage", "stage total failed: the corpus has no documents; add a source"),
     ("bug", "stage total failed: ZeroDivisionError: division by zero; QWENFORGE_DEBUG=1 shows where"),
     ("disk", "stage total failed: the disk is full: free some of it")],
)  # fmt: skip
def test_failure_says_which_why_and_how_to_carry_on(settings, fail, expected):
    with pytest.raises(StageFailed) as caught:
        go(settings, 6, ToyRecipe(total=SumConfig(fail=fail)), command="toy.toml")
    lines = str(caught.value).splitlines()
    assert lines[0].startswith(expected)
    assert "qwenforge run toy.toml" in lines[1]
    assert Catalog(settings.catalog_url).get_run().state == "failed"


def test_finished_stages_survive_a_failure(settings):
    with pytest.raises(StageFailed):
        go(settings, 7, ToyRecipe(total=SumConfig(fail="stage")))
    assert go(settings, 7)["cached"] == ["numbers"]


def test_network_trouble_is_retried(settings, tmp_path):
    result = go(settings, 8, ToyRecipe(total=SumConfig(fail="network", once=str(tmp_path / "mark"))))
    stage = next(s for s in Catalog(settings.catalog_url).stages_of(result["run"]) if s.stage == "total")
    assert (stage.state, stage.attempts) == ("completed", 2)


def start(settings: Settings, seed: int, recipe: ToyRecipe) -> subprocess.Popen:
    """The toy pipeline in a process of its own, with the exit codes of the command line."""
    program = (
        "import sys\nfrom toy import TOY, ToyRecipe\nfrom flows.errors import exit_code, message\n"
        "from flows.run_command import run_pipeline, run_settings\nfrom flows.terminal import Display\n"
        "recipe = ToyRecipe.model_validate_json(sys.argv[1])\n"
        "settings, seed = run_settings(), int(sys.argv[2])\n"
        "try:\n    run_pipeline(recipe, 'toy', seed, TOY, settings, Display(), command='toy.toml')\n"
        "except Exception as error:\n    print(message(error), file=sys.stderr)\n    sys.exit(exit_code(error))\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program, recipe.model_dump_json(), str(seed)],
        env={**os.environ, "QWENFORGE_HOME": str(settings.home), "PYTHONPATH": f"{ROOT}:{Path(__file__).parent}"},
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def test_killed_run_carries_on_to_the_same_digests(settings, tmp_path):
    undisturbed = go(settings, 9, ToyRecipe(total=SumConfig(fail="kill", once=str(__file__))))
    for digest in undisturbed["stages"].values():
        open_store(settings).delete(digest)

    mark = tmp_path / "mark"
    recipe = ToyRecipe(total=SumConfig(fail="kill", once=str(mark)))
    process = start(settings, 9, recipe)
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL

    resumed = go(settings, 9, recipe)
    assert resumed["cached"] == ["numbers"]
    assert resumed["stages"]["numbers"] == undisturbed["stages"]["numbers"]
    assert Catalog(settings.catalog_url).list_runs()[1].state == "stopped", "the dead run was closed"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stop_signal_ends_cleanly_and_says_how_to_resume(settings, tmp_path, number):
    mark = tmp_path / "mark"
    process = start(settings, 10, ToyRecipe(total=SumConfig(fail="wait", once=str(mark))))
    deadline = time.monotonic() + 60
    while not mark.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, number)  # as a terminal does: all processes of the run
    _, errors = process.communicate(timeout=90)
    assert process.returncode == 130, errors
    assert "stopped in stage total; finished stages are kept" in errors
    assert "Traceback" not in errors
    assert Catalog(settings.catalog_url).get_run().state == "stopped"
