"""Where a stack lives: one folder with ports and secrets that stay the same from one start to the next.

The folder is ``stack`` under ``QWENFORGE_HOME``. Secrets are made at the first start and kept with mode 0600.
"""

import hashlib
import json
import os
import secrets
import shlex
import socket
import tempfile
import uuid
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from infra.errors import InfraError
from infra.settings import Settings

LOOPBACK = "127.0.0.1"
BUCKET = "qwenforge"
DATABASES = ("catalog", "mlflow", "prefect")
POOL = "qwenforge"

USUAL_PORTS = {"postgres": 5432, "s3": 8333, "mlflow": 5000, "prefect": 4200, "dashboard": 8501, "api": 8000}
# Nobody types these: any free port will do.
INNER_PORTS = (
    "worker", "s3.grpc", "master", "master.grpc", "volume", "volume.grpc", "filer", "filer.grpc",
)  # fmt: skip
_LONGEST_SOCKET = 90  # bytes; the system takes 107, and Supervisor appends a process id while it binds
_SECRETS = ("postgres_password", "s3_access_key", "s3_secret_key")


@dataclass(frozen=True)
class Place:
    """One stack. ``ports``: service -> port on the loopback; ``secrets``: name -> value; ``served``: the checkpoint of
    the model API."""

    home: Path
    ports: dict[str, int]
    secrets: dict[str, str]
    served: str

    @property
    def folder(self) -> Path:
        return folder_of(self.home)

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def runtime(self) -> Path:
        """Sockets and process ids, gone when the stack is down. Elsewhere where the path is too long for a socket."""
        folder = self.folder / "run"
        if len(os.fsencode(folder)) <= _LONGEST_SOCKET - len("/supervisor.sock"):
            return folder
        return Path(tempfile.gettempdir()) / f"qwenforge-{self.name}"

    @property
    def name(self) -> str:
        """Tells this stack from others on the machine."""
        return hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:12]

    def url(self, service: str) -> str:
        return f"http://{LOOPBACK}:{self.ports[service]}"

    def database(self, name: str, driver: str = "postgresql") -> str:
        """URL of one of the databases."""
        password, port = self.secrets["postgres_password"], self.ports["postgres"]
        return f"{driver}://qwenforge:{password}@{LOOPBACK}:{port}/{name}"

    def client_environment(self) -> dict[str, str]:
        """What a process needs in its environment to use this stack."""
        return {
            "QWENFORGE_HOME": str(self.home),
            "QWENFORGE_STORE_URI": f"s3://{BUCKET}/artifacts",
            "QWENFORGE_S3_ENDPOINT_URL": self.url("s3"),
            "QWENFORGE_S3_REGION": "us-east-1",
            "QWENFORGE_S3_ACCESS_KEY_ID": self.secrets["s3_access_key"],
            "QWENFORGE_S3_SECRET_ACCESS_KEY": self.secrets["s3_secret_key"],
            "QWENFORGE_DATABASE_URL": self.database("catalog"),
            "QWENFORGE_MLFLOW_URI": self.url("mlflow"),
            "QWENFORGE_API_URLS": self.url("api"),
            "QWENFORGE_DASHBOARD_URL": self.url("dashboard"),
            "PREFECT_API_URL": f"{self.url('prefect')}/api",
        }

    def settings(self) -> Settings:
        """The settings of a process that uses this stack."""
        values = {
            name.removeprefix("QWENFORGE_").lower(): value
            for name, value in self.client_environment().items()
            if name.startswith("QWENFORGE_")
        }
        return Settings.model_validate(values)


def folder_of(home: Path) -> Path:
    return home / "stack"


def read_place(home: Path) -> Place | None:
    """The stack that was started under ``home``, up or down; None where there never was one."""
    folder = folder_of(home)
    try:
        facts = json.loads((folder / "stack.json").read_text())
        return Place(home, facts["ports"], json.loads((folder / "secrets.json").read_text()), facts["served"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError) as error:
        raise InfraError(f"cannot read the stack's ports and secrets in {folder}: {error}") from None


def prepare_place(home: Path, served: str, *, free_ports: bool) -> Place:
    """The stack of ``home`` with ports that are free now: those it had, else the usual ones, else any.

    ``free_ports``: never the usual ones, for stacks beside another one.
    """
    known = read_place(home)
    wanted: dict[str, int] = {} if free_ports else dict(USUAL_PORTS)
    wanted |= known.ports if known else {}
    place = Place(
        home,
        choose_ports(wanted),
        known.secrets if known else {name: secrets.token_hex(16) for name in _SECRETS},
        served,
    )
    # Another user's Postgres must reach its data below; secrets have a mode of their own.
    place.folder.mkdir(parents=True, exist_ok=True)
    place.folder.chmod(0o711 if os.getuid() == 0 else 0o700)
    for folder in (place.logs, place.runtime, place.folder / "s3", place.folder / "prefect"):
        folder.mkdir(mode=0o700, exist_ok=True)
    if place.runtime.stat().st_uid != os.getuid():
        raise InfraError(f"{place.runtime} belongs to another user; remove it, or set TMPDIR")
    write_private(place.folder / "secrets.json", json.dumps(place.secrets, indent=1))
    write_private(place.folder / "stack.json", json.dumps({"ports": place.ports, "served": served}, indent=1))
    lines = (f"{name}={shlex.quote(value)}\n" for name, value in place.client_environment().items())
    write_private(place.folder / "env", "".join(lines))
    return place


def choose_ports(wanted: dict[str, int]) -> dict[str, int]:
    """A free port for every service, the wanted one where it is free."""
    chosen: dict[str, int] = {}
    with ExitStack() as held:  # all are held until the last is found, so that none is found twice
        names = (*USUAL_PORTS, *INNER_PORTS)
        for name in sorted(names, key=lambda name: name not in wanted):
            for port in (wanted.get(name, 0), 0):
                probe = held.enter_context(socket.socket())
                # as servers do: a connection that lingers from the last run does not count
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((LOOPBACK, port))
                except OSError:
                    continue
                chosen[name] = probe.getsockname()[1]
                break
    return {name: chosen[name] for name in names}


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, as a whole or not at all."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


__all__ = [
    "BUCKET", "DATABASES", "LOOPBACK", "POOL", "Place", "choose_ports", "prepare_place", "read_place", "write_private",
]  # fmt: skip
