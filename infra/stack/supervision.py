"""Supervisor, which starts the processes of a stack, restarts what dies, keeps the logs and ends all in order."""

import http.client
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xmlrpc.client import Fault, ServerProxy

from infra.errors import InfraError
from infra.stack.place import Place, write_private
from infra.stack.services import MARK, Service, service_environment

_START_SECONDS = 20.0


class Supervision:
    """The supervisor of one stack, asked through a socket that only its owner may open."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.socket = place.runtime / "supervisor.sock"
        self._config = place.folder / "supervisord.conf"

    def start(self, wanted: Iterable[Service]) -> None:
        """Start the supervisor in the background; none of the services yet."""
        write_private(self._config, configuration(self._place, wanted))
        self.socket.unlink(missing_ok=True)
        done = subprocess.run(
            [sys.executable, "-m", "supervisor.supervisord", "-c", self._config],
            env=service_environment(self._place), stdin=subprocess.DEVNULL, capture_output=True, text=True,
        )  # fmt: skip
        deadline = time.monotonic() + _START_SECONDS
        while not self.runs():
            if done.returncode or time.monotonic() > deadline:
                said = " ".join((done.stderr + done.stdout).split())
                raise InfraError(f"Supervisor did not start: {said or f'see {self._place.logs}/supervisor.log'}")
            time.sleep(0.05)

    def runs(self) -> bool:
        """Whether it answers."""
        try:
            self._call("getState")
        except (OSError, Fault):  # a fault: it is ending
            return False
        return True

    def processes(self) -> dict[str, dict[str, Any]]:
        """Service -> Supervisor's facts: ``statename``, ``pid``, ``start``, ``spawnerr``; empty when it is down."""
        try:
            return {info["name"]: info for info in self._call("getAllProcessInfo")}
        except (OSError, Fault):
            return {}

    def start_service(self, name: str) -> None:
        """Unless it runs."""
        try:
            self._call("startProcess", name, False)
        except Fault as fault:
            if "ALREADY_STARTED" not in fault.faultString:
                raise InfraError(f"{name} cannot be started: {fault.faultString}") from None

    def stop_service(self, name: str) -> None:
        """Ask for its end, unless it has ended; returns at once."""
        try:
            self._call("stopProcess", name, False)
        except (OSError, Fault):
            return

    def shut_down(self) -> None:
        """Ask for the end of the supervisor; returns at once."""
        try:
            self._call("shutdown")
        except (OSError, Fault):  # it is ending already
            return

    def _call(self, method: str, *arguments: Any) -> Any:
        from supervisor.xmlrpc import SupervisorTransport

        transport = SupervisorTransport(serverurl=f"unix://{self.socket}")
        try:
            # the address is not used: the transport has its own
            proxy = ServerProxy("http://127.0.0.1", transport=transport)
            return getattr(proxy.supervisor, method)(*arguments)
        except http.client.HTTPException as error:
            raise ConnectionError(str(error)) from error
        finally:
            transport.close()


def configuration(place: Place, wanted: Iterable[Service]) -> str:
    """Supervisor's configuration file. Secrets may stand in it: it is written with mode 0600."""
    sections: list[tuple[str, dict[str, Any]]] = [
        ("unix_http_server", {"file": place.runtime / "supervisor.sock", "chmod": "0700"}),
        ("supervisord", {
            "logfile": place.logs / "supervisor.log", "logfile_maxbytes": "1MB", "logfile_backups": 1,
            "pidfile": place.runtime / "supervisord.pid", "childlogdir": place.logs,
            **({"user": "root"} if os.getuid() == 0 else {}),  # said aloud, or it warns
        }),
        ("rpcinterface:supervisor", {
            "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
        }),
    ]  # fmt: skip
    for service in wanted:
        group = str(service.whole_group).lower()
        options: dict[str, Any] = {
            "command": shlex.join(service.command), "priority": 10 + service.wave, "autostart": "false",
            "autorestart": "true", "startsecs": 2, "startretries": 30, "stopsignal": service.stop_signal,
            "stopwaitsecs": service.stop_seconds, "stopasgroup": group, "killasgroup": group,
            "redirect_stderr": "true",
            "stdout_logfile": str(log_file(place, service.name)).replace("%", "%%"),  # which is expanded twice
            "stdout_logfile_maxbytes": "10MB", "stdout_logfile_backups": 2,
        }  # fmt: skip
        if service.user:
            options |= {"user": service.user, "directory": "/"}
        if service.environment:
            options["environment"] = ",".join(f'{name}="{value}"' for name, value in service.environment.items())
        sections.append((f"program:{service.name}", options))
    lines = []
    for title, options in sections:
        lines.append(f"[{title}]")
        lines += [f"{name}={str(value).replace('%', '%%')}" for name, value in options.items()]
    return "\n".join(lines) + "\n"


def log_file(place: Place, service: str) -> Path:
    return place.logs / f"{service}.log"


def survivors(place: Place) -> list[Any]:
    """Processes of this stack that run, as ``psutil.Process``: its supervisor, services, and their children."""
    import psutil

    from infra.stack.postgres import process_id

    found = {}
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == str(place.folder) and process.status() != psutil.STATUS_ZOMBIE:
                found[process.pid] = process
        except (psutil.Error, OSError):
            continue
    # Postgres writes its title over its environment.
    if (server := process_id(place)) and psutil.pid_exists(server):
        found[server] = psutil.Process(server)
    return list(found.values())


__all__ = ["Supervision", "configuration", "log_file", "survivors"]
