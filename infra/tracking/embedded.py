"""Makes MLflow's SQLite database, quickly.

MLflow builds its tables through some sixty migrations, each a transaction that waits for the disk: 1.6 s of work, but
5 to 7 s where the disk is busy. So they run unsynchronised on a scratch file, which is then copied into place. The
copy is in WAL mode, which also lets a reader (`mlflow ui`) look on while a run writes.
"""

import contextlib
import os
import sqlite3
import uuid
from pathlib import Path
from typing import Any

from infra.errors import InfraError

_SCHEME = "sqlite:///"


def ensure_database(uri: str) -> None:
    """Make the database of a ``sqlite:///`` URI if it is not there. Several processes may do so at once."""
    if not uri.startswith(_SCHEME):
        return
    path = Path(uri.removeprefix(_SCHEME).split("?")[0])
    if path.exists():
        return
    scratch, copy = (path.with_name(f".{path.name}.{uuid.uuid4().hex}") for _ in range(2))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _build(scratch)
        _copy(scratch, copy)
        with contextlib.suppress(FileExistsError):  # another process was first
            os.link(copy, path)
    except (OSError, sqlite3.OperationalError) as error:
        raise InfraError(
            f"cannot make MLflow's database {path}: {error}; set QWENFORGE_HOME or QWENFORGE_MLFLOW_URI to a place you "
            "may write"
        ) from error
    finally:
        for file in path.parent.glob(f".{path.name}.*"):
            if file.name.startswith((scratch.name, copy.name)):
                file.unlink(missing_ok=True)


def _build(path: Path) -> None:
    from mlflow import MlflowClient
    from sqlalchemy import Engine, event

    def forget_the_disk(connection: Any, _: Any) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.execute("PRAGMA synchronous = OFF")

    event.listen(Engine, "connect", forget_the_disk)
    try:
        # Any call makes MLflow build the tables.
        MlflowClient(tracking_uri=f"{_SCHEME}{path}", registry_uri=f"{_SCHEME}{path}").search_experiments(max_results=1)
    finally:
        event.remove(Engine, "connect", forget_the_disk)


def _copy(source: Path, target: Path) -> None:
    with contextlib.closing(sqlite3.connect(source)) as old, contextlib.closing(sqlite3.connect(target)) as new:
        new.execute("PRAGMA journal_mode = WAL")
        old.backup(new)


__all__ = ["ensure_database"]
