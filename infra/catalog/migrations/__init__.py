"""Brings a catalog's tables to the current revision. One file in ``versions`` a change, oldest first by name."""

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from infra.errors import InfraError

_FOLDER = Path(__file__).parent
# Revision = file name up to the first underscore: no need to import Alembic (0.2 s) to know the newest.
REVISIONS = sorted(path.name.split("_")[0] for path in (_FOLDER / "versions").glob("[0-9]*.py"))
_LOCK = 0x7177656E  # "qwen": the advisory lock that keeps two processes from migrating at once


def upgrade(connection: Connection) -> None:
    """Migrate to the newest revision inside the caller's transaction; one query when already there."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    current = revision(connection)
    if current == REVISIONS[-1]:
        return
    if current is not None and current not in REVISIONS:
        raise InfraError(
            f"the catalog {connection.engine.url.render_as_string()} was made by a newer qwenforge (revision "
            f"{current}); update qwenforge or set QWENFORGE_DATABASE_URL to another database"
        )
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def revision(connection: Connection) -> str | None:
    """The revision that the database is at, or None when it has no catalog yet."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


__all__ = ["REVISIONS", "revision", "upgrade"]
