"""Shards as tasks of a Ray cluster (extra ``ray``): one of this machine's processors, or one that runs already.

Jobs name files, so every node must see the home folder under the same path, and have this checkout installed. Ray's
own retries are off: ``pool`` tries again, by the same rule as for local processes.
"""

import os
import signal
import socket
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar

from components.data.pool import WorkerDied, available_workers
from components.stage import StageError

Job = TypeVar("Job")
Result = TypeVar("Result")


class RayTasks:
    """As many jobs at once as the cluster has processors."""

    def __init__(self, address: str) -> None:
        self._ray = connect(address)
        self._tasks: dict[Callable[..., Any], Any] = {}
        self._asked: set[Any] = set()
        self._over = False
        self.workers = max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    def __call__(self, work: Callable[[Job], Result], job: Job) -> Result:
        errors = self._ray.exceptions
        if work not in self._tasks:
            self._tasks[work] = self._ray.remote(max_retries=0, num_cpus=1)(work)
        self._asked.add(answer := self._tasks[work].remote(job))
        try:
            if self._over:
                self._ray.cancel(answer, force=True)
            return self._ray.get(answer)
        except errors.RayTaskError as error:
            raise error.cause from None  # what the work itself has raised
        except (
            errors.WorkerCrashedError, errors.OutOfMemoryError, errors.NodeDiedError, errors.TaskCancelledError,
        ) as error:  # fmt: skip
            raise WorkerDied(f"Ray's process of {work.__name__} was ended from outside") from error
        finally:
            self._asked.discard(answer)

    def abandon(self) -> None:
        self._over = True  # before the look at what is asked: another thread may be asking just now
        for answer in list(self._asked):
            self._ray.cancel(answer, force=True)

    def close(self) -> None:
        """The connection stays for the next stage; Ray ends it, and a cluster of its own, with this process."""


def connect(address: str) -> ModuleType:
    """Ray, connected; without an address to a cluster of this machine alone, which ends with this process."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not address:
        # Ray's own switch for machines where it must not be seen from outside: it then listens on loopback. Its name
        # tells where it is the default; it is read at Ray's import.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise StageError(f"the data engine ray needs its extra ({error}): pip install --editable '.[ray]'") from None
    if not ray.is_initialized():
        reachable(address)
        terminate = signal.getsignal(signal.SIGTERM)
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
        try:
            if address:
                ray.init(address, **quiet)
            else:
                start(ray.init, address="local", num_cpus=available_workers(), include_dashboard=False, **quiet)
        except Exception as error:  # Ray raises plain ones
            raise StageError(f"no Ray cluster at {address or 'this machine'}: {error}") from error
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, terminate)  # Ray puts its own there: a run would end without its hint
    return ray


def reachable(address: str) -> None:
    """Raise StageError where nobody listens at host:port: Ray itself goes on trying for minutes."""
    host, _, port = address.rpartition("://")[2].partition(":")
    if port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise StageError(f"no Ray cluster at {address}: {error.strerror or error}") from None


def start(init: Callable[..., Any], **settings: Any) -> None:
    """Ray gives its own processes 30 seconds, which a busy machine may exceed the first time."""
    from tenacity import Retrying, stop_after_attempt

    Retrying(stop=stop_after_attempt(3), reraise=True)(init, **settings)


__all__ = ["RayTasks", "connect"]
