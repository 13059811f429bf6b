"""A Postgres cluster of our own from the distribution's binaries, on the loopback, with a password."""

import os
import pwd
import shutil
import subprocess
from pathlib import Path
from typing import Any

from infra.errors import InfraError
from infra.stack.place import DATABASES, LOOPBACK, Place

# Where root's own folders keep the server's user out.
_SYSTEM_FOLDER = Path("/var/lib/qwenforge")


def binaries() -> Path:
    """Where ``initdb`` and ``postgres`` are: a distribution keeps them out of PATH. The newest version wins."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    if not found and (initdb := shutil.which("initdb")):
        found = [Path(initdb).resolve()]
    if not found:
        raise InfraError(
            "the stack needs a Postgres server: apt-get install postgresql (Debian, Ubuntu), "
            "dnf install postgresql-server (Fedora) or brew install postgresql (macOS)"
        )
    return found[-1].parent


def server_user() -> str:
    """The user that the server runs as; empty for the present one. Postgres refuses to run as root."""
    if os.getuid() != 0:
        return ""
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise InfraError("Postgres refuses to run as root, and there is no user postgres or nobody; make one of them")


def data_folder(place: Place) -> Path:
    """The cluster's folder: in the stack's, or under /var/lib where root's folders keep the server's user out."""
    if os.getuid() != 0 or all(_open_to_all(folder) for folder in place.folder.parents):
        return place.folder / "postgres"
    return _SYSTEM_FOLDER / place.name / "postgres"


def _open_to_all(folder: Path) -> bool:
    return bool(folder.stat().st_mode & 0o001)


def make_cluster(place: Place) -> None:
    """Make the cluster unless it is there. One that was made half, by a killed start, is made anew."""
    data = data_folder(place)
    if (data / "PG_VERSION").exists():
        return
    half = data.with_name("postgres.new")
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(parents=True, mode=0o700)
    data.parent.chmod(0o711 if os.getuid() == 0 else 0o700)
    password = half.with_name("password")
    options: dict[str, Any] = {}
    try:
        password.touch(mode=0o600)
        password.write_text(place.secrets["postgres_password"])
        if name := server_user():
            user = pwd.getpwnam(name)
            os.chown(half, user.pw_uid, user.pw_gid)
            os.chown(password, user.pw_uid, user.pw_gid)
            options = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        made = subprocess.run(
            [binaries() / "initdb", "-D", half, "-U", "qwenforge", "-A", "scram-sha-256", f"--pwfile={password}",
             "-E", "UTF8", "--locale=C", "--no-sync"],
            cwd="/", capture_output=True, text=True, **options,
        )  # fmt: skip
    finally:
        password.unlink(missing_ok=True)
    if made.returncode:
        raise InfraError(f"initdb could not make a Postgres cluster in {half}: {' '.join(made.stderr.split())}")
    half.rename(data)


def command(place: Place) -> list[str]:
    """Reachable by TCP on the loopback alone: no socket is left in a folder of the system."""
    settings = {
        "listen_addresses": LOOPBACK,
        "port": place.ports["postgres"],
        "unix_socket_directories": "",
        "max_connections": 200,  # three services, each with its own pool
    }
    flags = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    return [str(binaries() / "postgres"), "-D", str(data_folder(place)), *flags]


def answers(place: Place) -> bool:
    """Whether the server takes our password."""
    import psycopg

    try:
        psycopg.connect(place.database("postgres"), connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def make_databases(place: Place) -> None:
    """The databases of the catalog, MLflow and Prefect, unless they are there."""
    import psycopg

    with psycopg.connect(place.database("postgres"), autocommit=True) as connection:
        known = {row[0] for row in connection.execute("SELECT datname FROM pg_database")}
        for name in DATABASES:
            if name not in known:
                connection.execute(f'CREATE DATABASE "{name}"')


def process_id(place: Place) -> int | None:
    """Of a server that still runs on this cluster, whoever started it."""
    try:
        number = int((data_folder(place) / "postmaster.pid").read_text().split()[0])
        os.kill(number, 0)
    except (OSError, ValueError, IndexError):
        return None
    return number


def remove_cluster(place: Place) -> None:
    """Delete all databases."""
    data = data_folder(place)
    shutil.rmtree(data, ignore_errors=True)
    if data.is_relative_to(_SYSTEM_FOLDER):
        shutil.rmtree(data.parent, ignore_errors=True)


__all__ = [
    "answers", "binaries", "command", "data_folder", "make_cluster", "make_databases", "process_id", "remove_cluster",
    "server_user",
]  # fmt: skip
