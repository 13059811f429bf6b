"""``qwenforge stack``: the services of ``infra.stack`` under this home, with their addresses."""

import time
from dataclasses import asdict
from typing import Any

from flows.terminal import Display, duration, stdout, table
from infra.errors import InfraError
from infra.settings import load_settings
from infra.stack import Status, down, read_place, status, up


def stack_up(served: str | None, free_ports: bool) -> dict[str, Any]:
    """Bring all services up; what ``--json`` prints."""
    home, display, started = load_settings().home, Display(), time.perf_counter()

    def report(line: str) -> None:
        display.line(f"{line} ({duration(time.perf_counter() - started)})")

    return _as_dict(up(home, served, free_ports=free_ports, report=report), time.perf_counter() - started)


def stack_down(volumes: bool) -> None:
    """End all services."""
    home, display = load_settings().home, Display()
    place = read_place(home)
    if place is None:
        display.line(f"there is no stack under {home}")
        return
    if not down(home, volumes=volumes, report=display.line):
        display.line("nothing was running")
    display.line(f"its data is deleted: {place.folder}" if volumes else f"its data stays in {place.folder}")


def stack_status() -> dict[str, Any]:
    """How every service is. Raises InfraError where there never was a stack."""
    home = load_settings().home
    if read_place(home) is None:
        raise InfraError(f"there is no stack under {home}; qwenforge stack up starts one")
    return _as_dict(status(home))


def print_stack(found: dict[str, Any]) -> None:
    """One line a service, and how to use them."""
    rows = [
        [row["service"], row["state"], duration(row["seconds"]) if row["pid"] else "", row["url"] or row["log"]]
        for row in found["services"]
    ]
    stdout().print(table("stack", {"service": "left", "state": "left", "for": "right", "": "left"}, rows))
    if found["environment"]:
        stdout().print(f"qwenforge run on it: set -a; source {found['environment']}; set +a")


def _as_dict(services: list[Status], seconds: float | None = None) -> dict[str, Any]:
    place = read_place(load_settings().home)
    return {
        "healthy": bool(services) and all(service.state in ("healthy", "waiting") for service in services),
        "services": [asdict(service) for service in services],
        "environment": str(place.folder / "env") if place else "",
        **({} if seconds is None else {"seconds": round(seconds, 1)}),
    }


__all__ = ["print_stack", "stack_down", "stack_status", "stack_up"]
