"""What pages ask of the catalog and of MLflow's database, against the same questions asked row by row."""

import random
import sqlite3
from datetime import UTC, datetime
from itertools import pairwise

import pytest

from infra.catalog import Catalog
from infra.catalog.views import Views
from infra.manifest import FileEntry, Manifest
from infra.tracking.embedded import ensure_database
from infra.tracking.reading import curves, last_values


@pytest.fixture
def url(tmp_path) -> str:
    return f"sqlite:///{tmp_path}/catalog.db"


def manifest(stage: str, kind: str, inputs: dict[str, str] | None = None, **summary) -> Manifest:
    return Manifest(
        kind=kind, stage=stage, stage_version="1", config_digest="c" * 64, inputs=inputs or {}, seed=0,
        summary=summary, files=[FileEntry(path="a", sha256="f" * 64, size=10)],
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )  # fmt: skip


def test_runs_stages_and_artifacts_are_counted_in_the_database(url):
    catalog, views = Catalog(url), Views(url)
    for number, seconds in enumerate((10.0, 30.0, 20.0)):
        run = catalog.start_run(name=f"pocket-2026-{number}", recipe={}, recipe_digest="r", seed=number)
        row = catalog.start_stage(run, "sft")
        catalog.finish_stage(row, "completed", seconds=seconds)
        catalog.finish_run(run, "completed" if number else "failed", error=None if number else "boom")
    data = manifest("ingest", "corpus")
    base = manifest("pretrain", "checkpoint", {"shards": data.digest, "tokenizer": data.digest}, final_loss=2.5)
    for made in (data, base, manifest("sft", "checkpoint", {"long": base.digest})):
        catalog.record_artifact(made)
    catalog.set_alias("base", base.digest)

    assert [(run["name"], run["seed"], run["error"]) for run in views.runs()] == [
        ("pocket-2026-2", 2, None), ("pocket-2026-1", 1, None), ("pocket-2026-0", 0, "boom"),
    ]  # fmt: skip
    (host,) = views.hosts()
    assert (host["running"], host["runs"], host["latest"]) == (0, 3, views.runs()[0]["started_at"])
    assert views.running() == []
    assert views.run_states() == {"completed": 2, "failed": 1}
    assert views.typical_seconds("pocket") == {"sft": 20.0}
    assert views.typical_seconds("pock") == {}
    assert views.stored_by_kind() == [
        {"kind": "checkpoint", "artifacts": 2, "bytes": 20}, {"kind": "corpus", "artifacts": 1, "bytes": 10},
    ]  # fmt: skip
    losses = {row["digest"]: row["final_loss"] for row in views.checkpoints()}
    assert losses[base.digest] == 2.5 and len(losses) == 2
    assert base.digest in {row["digest"] for row in views.checkpoints(1, digests=[base.digest])}
    assert views.artifact_summary(base.digest) == {"final_loss": 2.5} and views.artifact_summary("gone") == {}
    assert views.edges_among([data.digest, base.digest]) == [(data.digest, base.digest)]
    assert [(p.alias, p.digest) for p in views.promotions()] == [("base", base.digest)]


def test_progress_is_written_beside_a_running_stage_and_forgotten_when_it_starts_again(url):
    catalog = Catalog(url)
    run = catalog.start_run(name="pocket", recipe={}, recipe_digest="r", seed=0)
    row = catalog.start_stage(run, "sft")
    assert catalog.note_progress(row, "sft", 0.25, 12.5)
    stage = catalog.stages_of(run)[0]
    assert (stage.doing, stage.progress, stage.seconds_left) == ("sft", 0.25, 12.5)
    catalog.start_stage(run, "sft")
    assert catalog.stages_of(run)[0].progress is None


def test_a_job_does_not_wait_for_a_catalog_that_is_gone(url, tmp_path):
    catalog = Catalog(url)
    with sqlite3.connect(tmp_path / "catalog.db") as other:
        other.execute("DROP TABLE stages")
    assert not catalog.note_progress(1, "sft", 0.25, None)


@pytest.fixture(scope="module")
def tracked(tmp_path_factory) -> tuple[str, dict]:
    """MLflow's database with a long run, a short one, and a point that is no number."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    uri = f"sqlite:///{path}"
    ensure_database(uri)
    rng = random.Random(0)
    points = {
        ("long", "loss"): [(step, rng.random()) for step in range(0, 30_000, 3)],
        ("long", "reward"): [(step, rng.random()) for step in range(50)],
        ("short", "loss"): [(step, rng.random()) for step in (1, 2, 7, 90)],
    }
    with sqlite3.connect(path) as database:
        for run in ("long", "short"):
            database.execute(
                "INSERT INTO runs (run_uuid, status, lifecycle_stage, experiment_id) VALUES (?, ?, 'active', 0)",
                (run, "RUNNING"),
            )
        for (run, key), values in points.items():
            database.executemany(
                "INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES (?, ?, 0, ?, ?, 0)",
                [(key, value, run, step) for step, value in values],
            )
            database.execute(
                "INSERT INTO latest_metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES (?, ?, 0, ?, ?, 0)",
                (key, values[-1][1], run, values[-1][0]),
            )
        database.execute(
            "INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES ('loss', 0, 0, 'short', 3, 1)"
        )
    return uri, points


def test_a_short_curve_is_whole_and_a_long_one_has_a_point_of_every_span(tracked):
    uri, points = tracked
    found = {(c.run_id, c.metric): list(zip(c.steps, c.values, strict=True)) for c in
             curves(uri, ["long", "short"], 100, metrics=["loss", "reward"])}  # fmt: skip
    assert found["short", "loss"] == points["short", "loss"]
    assert found["long", "reward"] == points["long", "reward"]
    long = found["long", "loss"]
    assert set(long) <= set(points["long", "loss"])
    assert len(long) == 101 and (long[0][0], long[-1][0]) == (0, 29_997)
    gaps = [after[0] - before[0] for before, after in pairwise(long)]
    assert max(gaps) <= 29_997 / 100 + 6


def test_only_what_is_asked_for_is_read(tracked, tmp_path):
    uri, points = tracked
    assert [c.metric for c in curves(uri, ["long"], metrics=["reward"])] == ["reward"]
    assert curves(uri, [], metrics=["loss"]) == curves(uri, ["long"], metrics=[]) == []
    assert curves(f"sqlite:///{tmp_path}/none.db", ["long"], metrics=["loss"]) == []
    assert sorted(last_values(uri, ["short"])) == [("short", "loss", points["short", "loss"][-1][1])]
