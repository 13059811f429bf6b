"""The catalog on SQLite and on Postgres."""

import multiprocessing
import os
import sqlite3
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from infra_support import free_port
from sqlalchemy import create_engine, inspect, text

from infra.catalog import Catalog
from infra.catalog.migrations import REVISIONS, revision
from infra.catalog.models import Base
from infra.errors import InfraError
from infra.manifest import FileEntry, Manifest

HOUR = datetime(2026, 1, 1, 12, tzinfo=UTC)


def manifest(stage: str, inputs: dict[str, str] | None = None, seed: int = 0) -> Manifest:
    return Manifest(
        kind="corpus", stage=stage, stage_version="1", config_digest="c" * 64, inputs=inputs or {}, seed=seed,
        summary={"documents": 2}, files=[FileEntry(path="a", sha256="f" * 64, size=5_000_000_000)],
        created_at=HOUR,
    )  # fmt: skip


@pytest.fixture(params=["sqlite", "postgres"])
def url(request, tmp_path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/catalog.db"
    server = request.getfixturevalue("postgres_url")
    _execute(server, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")  # quicker than a database a test
    return server


def _execute(server: str, *statements: str) -> None:
    engine = create_engine(server.replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


@pytest.fixture
def catalog(url):
    catalog = Catalog(url, patience=5)
    yield catalog
    catalog.close()


def start(catalog: Catalog, **values) -> str:
    return catalog.start_run(
        **{"name": "pocket", "recipe": {"seed": 1}, "recipe_digest": "r" * 64, "seed": 1, **values}
    )


def test_a_run_from_start_to_end(catalog):
    run_id = start(catalog, stages=["ingest", "clean", "deduplicate"], mlflow_run_id="m")
    ingest = catalog.start_stage(run_id, "ingest", cache_key="k")
    catalog.finish_stage(ingest, "completed", artifact_digest="a" * 64, seconds=1.5, metrics={"rate": 2.5})
    clean = catalog.start_stage(run_id, "clean")
    catalog.finish_stage(clean, "failed", error="boom")
    assert catalog.start_stage(run_id, "clean") == clean
    catalog.finish_run(run_id, "stopped", error="interrupted")

    run = catalog.get_run()
    assert (run.id, run.state, run.error, run.recipe, run.mlflow_run_id) == (
        run_id, "stopped", "interrupted", {"seed": 1}, "m",
    )  # fmt: skip
    assert run.ended_at is not None
    assert run.ended_at >= run.started_at
    assert run.started_at.tzinfo is not None
    stages = [(row.stage, row.state, row.attempts, row.seconds, row.metrics) for row in catalog.stages_of(run_id)]
    assert stages == [
        ("ingest", "completed", 1, 1.5, {"rate": 2.5}),
        ("clean", "stopped", 2, None, {}),
        ("deduplicate", "pending", 0, None, {}),
    ]


def test_runs_are_found_by_id_beginning_and_latest(catalog):
    with pytest.raises(InfraError, match="no run yet"):
        catalog.get_run()
    first, second = start(catalog), start(catalog)
    assert catalog.get_run("latest").id == second
    assert catalog.get_run(first[:8]).id == first
    assert [run.id for run in catalog.list_runs()] == [second, first]
    with pytest.raises(InfraError, match="no run 'nope'"):
        catalog.get_run("nope")
    with pytest.raises(InfraError, match="no run '%'"):
        catalog.get_run("%")
    with pytest.raises(InfraError, match="no run 'gone'"):
        catalog.start_stage("gone", "ingest")


def test_lineage_is_every_ancestor_once(catalog):
    ingest = manifest("ingest")
    clean = manifest("clean", {"documents": ingest.digest})
    quality = manifest("quality", {"documents": clean.digest, "rejected": ingest.digest})
    unrelated = manifest("synthetic")
    for item in (ingest, clean, quality, unrelated, quality):
        catalog.record_artifact(item)
    lineage = catalog.lineage(quality.digest)
    assert {row.stage for row in lineage.artifacts} == {"ingest", "clean", "quality"}
    assert {(edge.child, edge.input_name, edge.parent) for edge in lineage.edges} == {
        (clean.digest, "documents", ingest.digest),
        (quality.digest, "documents", clean.digest),
        (quality.digest, "rejected", ingest.digest),
    }
    assert [row.digest for row in catalog.artifacts(stage="ingest")] == [ingest.digest]
    assert len(catalog.artifacts(kind="corpus")) == 4
    assert catalog.artifacts(stage="ingest")[0].bytes == 5_000_000_000
    assert catalog.artifacts(stage="ingest")[0].created_at == HOUR
    with pytest.raises(InfraError, match="no artifact"):
        catalog.lineage("0" * 64)


def test_an_alias_moves_and_its_history_stays(catalog):
    run_id = start(catalog)
    assert catalog.resolve_alias("base") is None
    for digest in ("a" * 64, "a" * 64, "b" * 64):
        catalog.set_alias("base", digest, run_id)
    assert catalog.resolve_alias("base") == "b" * 64
    assert [row.digest[0] for row in catalog.alias_history("base")] == ["b", "a"]


def test_a_run_whose_process_was_killed_is_closed_by_the_next(catalog, url):
    script = (
        "import os, sys; from infra.catalog import Catalog; c = Catalog(sys.argv[1]);"
        "r = c.start_run(name='x', recipe={}, recipe_digest='r', seed=0); c.start_stage(r, 'ingest');"
        "os.kill(os.getpid(), 9)"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    assert subprocess.run([sys.executable, "-c", script, url], env=env).returncode == -9
    dead = catalog.get_run().id
    alive = start(catalog)
    start(catalog)
    assert catalog.get_run(dead).state == "stopped"
    assert [stage.state for stage in catalog.stages_of(dead)] == ["stopped"]
    assert catalog.get_run(alive).state == "running"


def test_models_and_migrations_agree(catalog):
    with catalog._engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
        assert revision(connection) == REVISIONS[-1]
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parents[2] / "infra/catalog/migrations"))
    script = ScriptDirectory.from_config(config)
    assert script.get_heads() == [REVISIONS[-1]]
    assert [item.revision for item in script.walk_revisions()] == REVISIONS[::-1]


def test_a_catalog_at_the_newest_revision_opens_fast_and_keeps_its_rows(catalog, url):
    run_id = start(catalog)
    began = time.perf_counter()
    again = Catalog(url)
    assert time.perf_counter() - began < 0.5
    assert again.get_run().id == run_id
    again.close()


def test_a_catalog_from_a_newer_version_is_refused(catalog, url):
    with catalog._engine.connect().execution_options(write=True) as connection, connection.begin():
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(InfraError, match="made by a newer qwenforge"):
        Catalog(url)


def _open_and_write(url: str, number: int) -> None:
    catalog = Catalog(url)
    for _ in range(5):
        start(catalog, name=f"process {number}")


def test_processes_that_open_and_write_at_once(url):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_open_and_write, args=(url, number)) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    catalog = Catalog(url)
    assert len(catalog.list_runs()) == 20
    catalog.close()


def test_tables_are_there_after_upgrade(catalog):
    tables = set(inspect(catalog._engine).get_table_names())
    assert tables == {
        "runs", "stages", "artifacts", "artifact_edges", "aliases", "review_items", "reviews", "users", "audit",
        "gates", "alembic_version",
    }  # fmt: skip


@pytest.mark.parametrize("url", ["postgres"], indirect=True)
def test_a_connection_that_broke_is_replaced(url, postgres_url):
    catalog = Catalog(postgres_url, patience=5)
    run_id = start(catalog)
    _execute(
        postgres_url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = 'postgres'",
    )
    assert catalog.get_run().id == run_id
    catalog.close()


def test_sqlite_waits_for_another_writer(tmp_path):
    path = tmp_path / "catalog.db"
    catalog = Catalog(f"sqlite:///{path}", patience=5)
    assert sqlite3.connect(path).execute("PRAGMA journal_mode").fetchone() == ("wal",)
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    assert list(catalog.list_runs()) == []  # readers do not wait
    threading.Timer(0.3, lambda: other.execute("COMMIT")).start()
    began = time.perf_counter()
    start(catalog)
    assert time.perf_counter() - began > 0.2
    catalog.close()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nonsense", "no database URL"),
        ("mysql://localhost/x", "expected sqlite or postgresql"),
        ("sqlite:////proc/nowhere/catalog.db", "QWENFORGE_HOME"),
        ("sqlite:////etc/hostname", "cannot use the catalog"),
    ],
)
def test_a_wrong_url_is_one_clear_line(url, message):
    with pytest.raises(InfraError, match=message):
        Catalog(url, patience=0.1)


def test_an_absent_server_is_one_clear_line_without_the_password():
    with pytest.raises(InfraError, match=r"cannot use the catalog postgresql\+psycopg://me:\*\*\*@127") as caught:
        Catalog(f"postgresql://me:secret@127.0.0.1:{free_port()}/x", patience=0.1)
    assert "secret" not in str(caught.value)


def test_an_unknown_database_is_not_waited_for(postgres_url):
    began = time.perf_counter()
    with pytest.raises(InfraError, match='"nowhere" does not exist'):
        Catalog(postgres_url.removesuffix("postgres") + "nowhere")
    assert time.perf_counter() - began < 5
