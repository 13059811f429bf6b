"""A home as a busy team leaves it: many runs in the catalog, millions of metric points in MLflow's database.

The newest run has real artifacts, written by the stages' own writers, of the size that pocket's have; of the others the
catalog knows what it always knows, and the store holds nothing. Rows go in by bulk, and metric points by SQL alone.
"""

import hashlib
import sqlite3
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import insert
from sqlalchemy.orm import Session

from benchmarks.dashboard_artifacts import write_artifacts
from flows.stages import PIPELINE
from infra.catalog import Alias, Artifact, Catalog, Edge, Run, Stage
from infra.settings import Settings
from infra.store import open_store
from infra.tracking.embedded import ensure_database

TRAINED = ("pretrain", "extend", "sft", "dpo", "reward", "grpo")
METRICS = (
    "loss", "reward", "accuracy", "grad_norm", "learning_rate", "tokens_per_second", "utilisation", "heldout_pass_rate",
)  # fmt: skip
LONG_SHARE = 0.1
"""Share of all points that belong to the newest run's pre-training: one long run among many short ones."""
STATES = ("completed", "completed", "completed", "failed", "stopped")


def seed(home: Path, runs: int, points: int) -> str:
    """Fill ``home``; returns the id of the newest run, which alone has its artifacts."""
    settings = Settings(home=home)
    home.mkdir(parents=True, exist_ok=True)
    began = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=runs)
    digests = write_artifacts(open_store(settings))
    mlflow = {
        (number, stage): uuid.UUID(int=(number * 10 + place) * 2654435761 % 2**128).hex
        for number in range(runs)
        for place, stage in enumerate(TRAINED)
    }
    seed_catalog(settings, runs, began, mlflow, digests)
    seed_points(settings, began, mlflow, points, runs)
    return run_id(runs - 1)


def run_id(number: int) -> str:
    return hashlib.sha256(f"run {number}".encode()).hexdigest()[:12]


def seed_catalog(
    settings: Settings, runs: int, began: datetime, mlflow: dict[tuple[int, str], str], newest: dict[str, str]
) -> None:
    rows: dict[type, list[dict[str, Any]]] = {Run: [], Artifact: [], Stage: [], Edge: [], Alias: []}
    for number in range(runs):
        last = number == runs - 1
        start = began + timedelta(hours=number)
        state = "completed" if last else STATES[number % len(STATES)]
        rows[Run].append(
            {"id": run_id(number), "name": f"pocket-{start:%Y%m%d}-{start:%H%M%S}", "recipe": {"seed": number},
             "recipe_digest": "r" * 64, "seed": number, "state": state, "started_at": start,
             "ended_at": start + timedelta(minutes=50), "host": "seeded", "pid": 1,
             "error": "the disk is full" if state == "failed" else None}
        )  # fmt: skip
        reached = len(PIPELINE) if state == "completed" else 5 + number % 15
        made: dict[str, str] = {}
        for place, stage in enumerate(PIPELINE):
            done = place < reached
            digest = newest[stage.id] if last else hashlib.sha256(f"{number} {stage.id}".encode()).hexdigest()
            rows[Stage].append(
                {"run_id": run_id(number), "stage": stage.id, "state": "completed" if done else "pending",
                 "artifact_digest": digest if done else None, "started_at": start if done else None,
                 "ended_at": start if done else None, "seconds": 10.0 + place + number % 7 if done else None,
                 "attempts": 1, "metrics": {"seconds": 10.0},
                 "mlflow_run_id": mlflow.get((number, stage.id)) if done else None}
            )  # fmt: skip
            if not done:
                continue
            made[stage.id] = digest
            rows[Artifact].append(
                {"digest": digest, "kind": stage.kind, "stage": stage.id, "bytes": 1_000_000 * (place + 1), "files": 3,
                 "summary": {"final_loss": 2.5 + 0.001 * (number % 100), "effects": []}, "created_at": start}
            )  # fmt: skip
            rows[Edge] += [
                {"child": digest, "input_name": name, "parent": made[parent]} for name, parent in stage.inputs.items()
            ]
            if stage.alias:
                rows[Alias].append(
                    {"alias": stage.alias, "digest": digest, "run_id": run_id(number), "moved_at": start}
                )
    catalog = Catalog(settings.catalog_url)

    def work(session: Session) -> None:
        for model, values in rows.items():
            session.execute(insert(model), values)

    catalog._write(work)
    catalog.close()


def seed_points(
    settings: Settings, began: datetime, mlflow: dict[tuple[int, str], str], points: int, runs: int
) -> None:
    """``points`` rows of MLflow's ``metrics``, in the order of its primary key: appended, never searched for."""
    ensure_database(settings.tracking_uri)
    long = mlflow[runs - 1, "pretrain"]
    long_steps = max(1, int(points * LONG_SHARE) // len(METRICS))
    steps = max(1, (points - long_steps * len(METRICS)) // (len(METRICS) * (len(mlflow) - 1)))
    milliseconds = int(began.timestamp() * 1000)
    database = sqlite3.connect(settings.home / "mlflow.db", isolation_level=None)
    for pragma in ("synchronous = OFF", "cache_size = -400000", "temp_store = MEMORY"):
        database.execute(f"PRAGMA {pragma}")
    indexes = database.execute(
        "SELECT name, sql FROM sqlite_master WHERE tbl_name = 'metrics' AND sql LIKE 'CREATE IND%'"
    )
    saved = dict(indexes.fetchall())
    database.execute("BEGIN")
    for name in saved:
        database.execute(f"DROP INDEX {name}")
    database.executemany(
        "INSERT INTO runs (run_uuid, name, status, start_time, lifecycle_stage, experiment_id) "
        "VALUES (?, ?, 'FINISHED', ?, 'active', 0)",
        [(mlflow_run, stage, milliseconds) for (_, stage), mlflow_run in mlflow.items()],
    )
    database.execute("CREATE TEMP TABLE length (run TEXT PRIMARY KEY, steps INTEGER) WITHOUT ROWID")
    database.executemany(
        "INSERT INTO length VALUES (?, ?)", [(m, long_steps if m == long else steps) for m in mlflow.values()]
    )
    for metric in sorted(METRICS):
        # A curve that falls like 1 / sqrt(step), with noise, of another height for every run.
        database.execute(
            """
            INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan)
            WITH RECURSIVE step(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM step WHERE n + 1 < ?)
            SELECT ?, 2 + (unicode(run) % 7) * 0.1 + 5 / (1.0 + 0.05 * n) + (abs(random()) % 1000) * 1e-4,
                   ? + n * 1000, run, n, 0
            FROM step CROSS JOIN length WHERE n < length.steps
            """,
            (steps, metric, milliseconds),
        )
        database.execute(
            """
            INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan)
            WITH RECURSIVE step(n) AS (SELECT ? UNION ALL SELECT n + 1 FROM step WHERE n + 1 < ?)
            SELECT ?, 2 + 5 / (1.0 + 0.05 * n) + (abs(random()) % 1000) * 1e-4, ? + n * 1000, ?, n, 0 FROM step
            """,
            (steps, long_steps, metric, milliseconds, long),
        )
    for sql in saved.values():
        database.execute(sql)
    database.execute(
        "INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) "
        "SELECT m.key, m.value, m.timestamp, m.step, 0, m.run_uuid FROM length AS l "
        "JOIN metrics AS m ON m.run_uuid = l.run AND m.step = l.steps - 1"
    )
    database.execute("COMMIT")
    database.close()
