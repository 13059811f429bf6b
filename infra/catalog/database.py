"""``Database``: opens and migrates the catalog's database, and runs one transaction a call."""

import os
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy.orm import Session

from infra.catalog.engine import open_engine, patiently
from infra.catalog.migrations import REVISIONS, revision, upgrade
from infra.errors import InfraError

T = TypeVar("T")


class Database:
    """What the services over the catalog's tables share. Safe to use from several threads and processes."""

    def __init__(self, url: str, *, patience: float = 60.0) -> None:
        """Open and migrate. ``patience``: seconds that a running job waits for a database that went away."""
        self._engine = open_engine(url)
        self._patience = patience
        # A wrong address should show soon, so opening waits for less.
        patiently(self._migrate, self._engine.url, min(patience, 10.0))

    def close(self) -> None:
        self._engine.dispose()

    def _write(self, work: Callable[[Session], T]) -> T:
        return self._transaction(work, write=True)

    def _read(self, work: Callable[[Session], T]) -> T:
        return self._transaction(work, write=False)

    def _transaction(self, work: Callable[[Session], T], *, write: bool) -> T:
        def attempt() -> T:
            with Session(self._engine, expire_on_commit=False) as session, session.begin():
                session.connection(execution_options={"write": write})
                return work(session)

        return patiently(attempt, self._engine.url, self._patience)

    def _migrate(self) -> None:
        with self._engine.connect() as connection:
            if revision(connection) == REVISIONS[-1]:
                return  # the common case takes no lock
        with self._engine.connect().execution_options(write=True) as connection, connection.begin():
            upgrade(connection)

    @staticmethod
    def _one(session: Session, model: type[T], key: Any, name: str) -> T:
        row = session.get(model, key)
        if row is None:
            raise InfraError(f"no {name} {key!r} in the catalog; was it recorded in another database?")
        return row


def is_alive(pid: int) -> bool:
    """Whether this host has such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


__all__ = ["Database", "is_alive"]
