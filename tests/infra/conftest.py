"""Real servers and small artifacts for the tests of infra."""

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode does not: for infra_support

from infra_support import ORIGIN, free_port, write_files

from infra.backends import LocalBackend
from infra.store import ArtifactStore, StoredArtifact


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(LocalBackend(tmp_path / "store"))


@pytest.fixture
def commit(tmp_path: Path) -> Callable[..., StoredArtifact]:
    """``commit(store, files={...}, seed=1)``: write files to a fresh folder and commit it."""

    def committed(store: ArtifactStore, files: dict[str, bytes] | None = None, **origin: Any) -> StoredArtifact:
        number = len(list(tmp_path.glob("output-*")))
        files = files or {"documents.txt": b"one\ntwo\n", "nested/index.bin": bytes(range(256))}
        folder = write_files(tmp_path / f"output-{number}", files)
        return store.commit(folder, **{**ORIGIN, **origin})

    return committed


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An empty, temporary Postgres cluster on a free port of the loopback."""
    binaries = _postgres_binaries()
    data = tmp_path_factory.mktemp("postgres") / "data"
    options: dict[str, Any] = {"check": True, "capture_output": True, "cwd": "/"}
    if os.getuid() == 0:  # Postgres refuses to run as root
        user = _unprivileged_user()
        options |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        # The private folders that pytest makes would keep the server's user out.
        home = Path(tempfile.mkdtemp(prefix="qwenforge-postgres-"))
        os.chown(home, user.pw_uid, user.pw_gid)
        data = home / "data"
    port = free_port()
    try:
        subprocess.run(
            [binaries / "initdb", "-D", data, "-U", "qwenforge", "-A", "trust", "-N", "-E", "UTF8"], **options
        )
        flags = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories='' -c fsync=off"
        pg_ctl = [binaries / "pg_ctl", "-D", data, "-w"]
        options["capture_output"] = False  # the server would keep the pipes open
        options |= {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run([*pg_ctl, "-l", data / "log", "-o", flags, "start"], **options)
        try:
            yield f"postgresql://qwenforge@127.0.0.1:{port}/postgres"
        finally:
            subprocess.run([*pg_ctl, "-m", "immediate", "stop"], **options)
    finally:
        shutil.rmtree(data.parent, ignore_errors=True)


def _postgres_binaries() -> Path:
    """Where initdb and pg_ctl are: a distribution keeps them out of PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    if not found and (initdb := shutil.which("initdb")):
        found = [Path(initdb).resolve()]
    if not found:
        pytest.fail(
            "the catalog's tests need a Postgres server: `apt-get install postgresql` (Debian, Ubuntu), "
            "`dnf install postgresql-server` (Fedora) or `brew install postgresql` (macOS)"
        )
    return found[-1].parent


def _unprivileged_user() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")
