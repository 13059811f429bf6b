"""Prefect without a server to run: its API in a thread of this process, its files under ``settings.home``.

Prefect's own temporary server is a child process: it outlives a run that is killed, and Ctrl-C hits it first, so
that the run cannot report its end. A thread does neither. With ``PREFECT_API_URL`` set, that server is used.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from infra.errors import InfraError
from infra.settings import Settings

STARTUP_TIMEOUT = 120.0  # seconds; 6 s the first time on two cores, when the database is made


@contextmanager
def prefect_api(settings: Settings) -> Iterator[None]:
    """Make Prefect usable inside the block. Must be entered before anything imports ``prefect``."""
    home = settings.home / "prefect"
    defaults = {
        "PREFECT_HOME": str(home),
        "PREFECT_LOCAL_STORAGE_PATH": str(home / "results"),
        # Progress and errors are shown by the command line; Prefect repeats them with its own traceback.
        "PREFECT_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_TO_API_ENABLED": "false",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
        "DO_NOT_TRACK": "1",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    if os.environ.get("PREFECT_API_URL"):
        yield
        return
    os.environ.setdefault("PREFECT_SERVER_ALLOW_EPHEMERAL_MODE", "true")
    os.environ.setdefault("PREFECT_SERVER_UI_ENABLED", "false")
    with _serve() as url:
        os.environ["PREFECT_API_URL"] = url
        from prefect.settings import PREFECT_API_URL, temporary_settings

        try:
            with temporary_settings({PREFECT_API_URL: url}):
                yield
        finally:
            del os.environ["PREFECT_API_URL"]


@contextmanager
def _serve() -> Iterator[str]:
    """Prefect's API application on a free local port, in a daemon thread."""
    import uvicorn
    from prefect.server.api.server import create_app

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(create_app(ephemeral=True), log_level=logging.CRITICAL, log_config=None, lifespan="on")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],), name="prefect-api", daemon=True)
    thread.start()
    deadline = time.monotonic() + STARTUP_TIMEOUT
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            raise InfraError(
                "Prefect's local API did not start; set PREFECT_API_URL to a running server, or remove "
                "the folder 'prefect' under QWENFORGE_HOME and run again"
            )
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/api"
    finally:
        _send_events()
        server.should_exit = True
        thread.join(timeout=5)
        listener.close()


def _send_events() -> None:
    """Have Prefect's client send the events that it still holds: afterwards nobody listens, and it would insist."""
    from prefect.events.worker import EventsWorker

    EventsWorker.drain_all(timeout=10, at_exit=False)


__all__ = ["prefect_api"]
