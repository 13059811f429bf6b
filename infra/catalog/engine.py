"""Opens the catalog's database: SQLite or Postgres, with patience for outages and one clear line for the rest."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError
from tenacity import Retrying, before_sleep_log, retry_if_exception, stop_after_delay, wait_random_exponential

from infra.errors import InfraError

log = logging.getLogger(__name__)
T = TypeVar("T")

_BUSY_SECONDS = 30  # how long SQLite itself waits for another writer
# libpq reports a refused login and an absent server with the same error class; only the text tells them apart.
_HOPELESS = ("password", "authentication", "does not exist", "permission denied", "no pg_hba.conf entry")


def open_engine(url: str) -> Engine:
    """An engine whose transactions are BEGIN IMMEDIATE on SQLite when they will write."""
    parsed = _parse(url)
    if parsed.get_backend_name() == "sqlite":
        return _sqlite(parsed)
    return create_engine(parsed, pool_pre_ping=True, connect_args={"connect_timeout": 5})


def patiently(work: Callable[[], T], url: URL, patience: float) -> T:
    """``work()``, repeated through an outage of up to ``patience`` seconds."""
    try:
        return Retrying(
            retry=retry_if_exception(_is_transient),
            wait=wait_random_exponential(multiplier=0.2, max=5),
            stop=stop_after_delay(patience),
            before_sleep=before_sleep_log(log, logging.WARNING),
            reraise=True,
        )(work)
    except DBAPIError as error:
        if not isinstance(error, OperationalError) and "not a database" not in str(error.orig):
            raise  # a mistake of ours, not of the database
        reason = " ".join(str(error.orig).split())
        raise InfraError(
            f"cannot use the catalog {url.render_as_string(hide_password=True)}: {reason}; check "
            "QWENFORGE_DATABASE_URL and that the database is up and writable"
        ) from error


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise InfraError(
            "QWENFORGE_DATABASE_URL is no database URL; expected sqlite:///file or postgresql://user@host/name"
        ) from None
    if parsed.drivername in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise InfraError(f"QWENFORGE_DATABASE_URL names {parsed.drivername!r}; expected sqlite or postgresql")
    return parsed


def _sqlite(url: URL) -> Engine:
    if url.database and url.database != ":memory:":
        try:
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InfraError(
                f"cannot create {Path(url.database).parent}: {error.strerror}; set QWENFORGE_HOME to a folder you "
                "may write"
            ) from None
    engine = create_engine(url, connect_args={"timeout": _BUSY_SECONDS})

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # the driver's own BEGIN would come too late and not be IMMEDIATE
        for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A transaction that reads first and writes later cannot wait for its turn: SQLite refuses it at once.
        write = connection.get_execution_options().get("write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def _is_transient(error: BaseException) -> bool:
    """Whether waiting may help: a lock, or a database that is restarting or out of reach."""
    if not isinstance(error, DBAPIError):
        return False
    reason = str(error.orig).lower()
    if type(error.orig).__module__.startswith("sqlite3"):
        return "locked" in reason or "busy" in reason
    if error.connection_invalidated:
        return True
    return isinstance(error, OperationalError) and not any(word in reason for word in _HOPELESS)


__all__ = ["open_engine", "patiently"]
