"""``qwenforge serve``: the OpenAI-compatible API on a checkpoint; an alias is followed when it moves."""

import os
import time
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from flows.checkpoints import find_checkpoint, readable
from flows.errors import UsageError
from infra.hardware import resolve_device
from infra.settings import load_settings
from infra.store import open_store

LOOK_SECONDS = 2.0  # between two looks for a checkpoint that is not there yet


def serve_command(name: str, host: str, port: int, *, wait: bool = False, **limits: Any) -> None:
    """Serve until SIGTERM or Ctrl-C. ``wait``: until the checkpoint is there, instead of refusing."""
    settings = load_settings()
    keys = [key for key in settings.api_keys.get_secret_value().split(",") if key]
    if not keys and not _is_loopback(host):
        raise UsageError(f"{host} is not loopback: set QWENFORGE_API_KEYS (key,key) before the API is open to others")
    if settings.threads:
        os.environ["OMP_NUM_THREADS"] = str(settings.threads)
    store = open_store(settings)

    def locate() -> tuple[str, Path]:
        checkpoint = find_checkpoint(name, settings, store)
        return checkpoint.digest, checkpoint.path

    if wait:
        _wait_for(name, locate)
    with readable(name):
        locate()
        from components.serving.api.server import ServerOptions, serve

        print(f"{name} at http://{host}:{port}/v1 (Ctrl-C ends it)", flush=True)
        served = Path(name).resolve().name if Path(name).is_dir() else name
        options = ServerOptions(host=host, port=port, api_keys=keys, **limits)
        serve(served, locate, resolve_device(settings.device), options)


def _wait_for(name: str, locate: Callable[[], object]) -> None:
    said = False
    while True:
        try:
            locate()
            return
        except UsageError:
            if not said:
                print(f"waiting for {name}: there is no checkpoint of that name yet", flush=True)
            said = True
        time.sleep(LOOK_SECONDS)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


__all__ = ["serve_command"]
