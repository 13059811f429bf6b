"""Up, down and status of a stack."""

import fcntl
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from infra.errors import InfraError
from infra.stack import postgres
from infra.stack.place import Place, folder_of, prepare_place, read_place
from infra.stack.services import Service, check_installed, leftover_sockets, services
from infra.stack.supervision import Supervision, log_file, survivors

State = Literal["healthy", "starting", "waiting", "failed", "stopped"]
LONGEST_START = 600.0  # seconds for all services; under 60 on two cores that do nothing else
_POLL = 0.25
_SHOWN_LINES = 5


@dataclass(frozen=True)
class Status:
    """How one service is. ``waiting``: it works, and has nothing to serve yet."""

    service: str
    state: State
    url: str
    log: str
    pid: int | None = None
    seconds: float = 0.0
    """How long it has been running."""


def up(home: Path, served: str | None = None, *, free_ports: bool, report: Callable[[str], None]) -> list[Status]:
    """Start what does not run and wait until all is healthy. ``report`` gets a line for each step.

    ``served``: the checkpoint of the model API, which waits for it; the same as the last time by default.
    Raises InfraError when something is missing, or does not start: with its last lines and where the log is.
    """
    check_installed()
    with _alone(home):
        place = read_place(home)
        if place is None or not Supervision(place).runs():
            if place is not None:
                end_survivors(place)  # of a stack whose supervisor was killed
            served = served or (place.served if place else "rl")
            place = prepare_place(home, served, free_ports=free_ports)
            postgres.make_cluster(place)
            Supervision(place).start(services(place))
        elif served not in (None, place.served):
            raise InfraError(f"the running stack serves {place.served}; qwenforge stack down, then up --serve {served}")
        supervision, wanted = Supervision(place), services(place)
        deadline = time.monotonic() + LONGEST_START
        for wave, prepare in ((0, _prepare_storage), (1, None), (2, None)):
            now = [service for service in wanted if service.wave == wave]
            for service in now:
                supervision.start_service(service.name)
            for service in now:
                _wait(place, supervision, service, deadline)
                report(f"{service.name} is up")
            if prepare:
                prepare(place)
    return status(home)


def down(home: Path, *, volumes: bool, report: Callable[[str], None]) -> bool:
    """End every process of the stack; False where none ran. ``volumes``: delete its data too."""
    place = read_place(home)
    if place is None:
        return False
    with _alone(home):
        supervision = Supervision(place)
        ran = bool(survivors(place))
        for wave in (2, 1, 0) if supervision.runs() else ():
            _stop(supervision, [service for service in services(place) if service.wave == wave], report)
        supervision.shut_down()
        end_survivors(place)
        shutil.rmtree(place.runtime, ignore_errors=True)
        for socket in leftover_sockets(place):
            socket.unlink(missing_ok=True)
        (place.folder / "supervisord.conf").unlink(missing_ok=True)
        if volumes:
            postgres.remove_cluster(place)
            shutil.rmtree(place.folder, ignore_errors=True)
    return ran


def status(home: Path) -> list[Status]:
    """Of every service; empty where there never was a stack."""
    place = read_place(home)
    if place is None:
        return []
    processes = Supervision(place).processes()
    return [_status(place, service, processes.get(service.name)) for service in services(place)]


def end_survivors(place: Place, patience: float = 15.0) -> None:
    """End what a supervisor that is gone has left: gently, then by force."""
    import psutil

    deadline = time.monotonic() + patience
    while left := survivors(place):
        for process in left:
            # Postgres would wait for its clients on SIGTERM
            gently = signal.SIGINT if process.pid == postgres.process_id(place) else signal.SIGTERM
            with suppress(psutil.Error):
                process.send_signal(gently if time.monotonic() < deadline else signal.SIGKILL)
        if time.monotonic() > deadline + 10:
            raise InfraError(f"these processes of the stack do not end: {', '.join(str(p.pid) for p in left)}")
        psutil.wait_procs(left, timeout=2)


def _status(place: Place, service: Service, info: dict[str, Any] | None) -> Status:
    state: State
    if info is None or info["statename"] in ("STOPPED", "STOPPING", "EXITED"):
        state = "stopped"
    elif info["statename"] == "FATAL":
        state = "failed"
    else:
        state = "healthy" if service.healthy() else "waiting" if _waits(place, service) else "starting"
    pid = info["pid"] if info and info["pid"] else None
    seconds = float(info["now"] - info["start"]) if info and pid else 0.0
    return Status(service.name, state, service.url, str(log_file(place, service.name)), pid, seconds)


def _waits(place: Place, service: Service) -> bool:
    """Whether the model API has said that there is no checkpoint yet."""
    return service.name == "api" and any("waiting for" in line for line in last_lines(log_file(place, "api"), 1))


def _stop(supervision: Supervision, ending: Sequence[Service], report: Callable[[str], None]) -> None:
    """End these services and wait for it; Supervisor kills what takes longer than it may."""
    for service in ending:
        supervision.stop_service(service.name)
    left = {service.name for service in ending}
    while left:
        running = {name for name, info in supervision.processes().items() if info["pid"]}
        for name in sorted(left - running):
            report(f"{name} has ended")
        left &= running
        time.sleep(_POLL)


def _wait(place: Place, supervision: Supervision, service: Service, deadline: float) -> None:
    while not service.healthy():
        if service.name == "api" and _waits(place, service):
            return
        info = supervision.processes().get(service.name)
        if info is None:
            raise InfraError(f"the supervisor has ended; see {place.logs / 'supervisor.log'}")
        if info["statename"] == "FATAL" or time.monotonic() > deadline:
            log = log_file(place, service.name)
            said = " | ".join(last_lines(log, _SHOWN_LINES)) or info["spawnerr"]
            raise InfraError(f"{service.name} does not start: {said}; its log is {log}, qwenforge stack down ends all")
        time.sleep(_POLL)


def last_lines(path: Path, number: int) -> Sequence[str]:
    """The end of a log, without empty lines."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 8192))
            lines = file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return []
    return [line.strip() for line in lines if line.strip()][-number:]


def _prepare_storage(place: Place) -> None:
    from infra.stack.storage import prepare

    postgres.make_databases(place)
    prepare(place.settings())


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """One up or down at a time. The lock is beside the folder, which may be deleted."""
    folder_of(home).parent.mkdir(parents=True, exist_ok=True)
    with (home / "stack.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InfraError("another command is starting or stopping this stack; wait for it") from None
        yield


__all__ = ["State", "Status", "down", "end_survivors", "last_lines", "status", "up"]
