"""A pool of sandboxes that are started ahead of time. Each serves one job and is thrown away.

Starting one (namespaces, mounts, an interpreter) costs more than most jobs; here that happens while others run. One
thread starts them all and lives as long as the pool: the kernel ends a sandbox with the *thread* that started it.
"""

import atexit
import contextlib
import marshal
import os
import queue
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from components.sandbox.isolation import Isolation, available_isolation, sandbox_command, supervisor_code
from components.sandbox.job import Job, SandboxResult, Status, read_outcomes, result_of
from components.stage import StageError

START_SECONDS = 60.0
"""Until a sandbox must be ready; only a machine that is badly overloaded takes more than one."""
GRACE = 0.7
"""Seconds beyond a job's own limits after which it is ended from outside."""
NO_ISOLATION = (
    "sandbox: this host lets us isolate nothing, so model-written code is not run; install bubblewrap, "
    "or allow user namespaces (sysctl kernel.unprivileged_userns_clone=1), or run as root"
)
Process = subprocess.Popen[bytes]


class SandboxPool:
    """``workers`` jobs at a time, with as many sandboxes waiting for the next ones.

    ``own_code`` says that this project composed all jobs: then a host without isolation runs them under resource
    limits alone. Never set it for what a model wrote.
    """

    def __init__(self, workers: int | None = None, *, own_code: bool = False) -> None:
        self.isolation: Isolation = available_isolation()
        if self.isolation == "limits" and not own_code:
            raise StageError(NO_ISOLATION)
        self.workers = workers or len(os.sched_getaffinity(0))
        self._ready: queue.SimpleQueue[Process | OSError] = queue.SimpleQueue()
        self._wanted: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._closed = False
        self._spawner = threading.Thread(target=self._spawn, name="sandbox-spawner", daemon=True)
        self._spawner.start()
        for _ in range(self.workers):
            self._wanted.put(True)

    def __enter__(self) -> "SandboxPool":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def run(self, job: Job) -> SandboxResult:
        """Run one job. Threads may call this at the same time."""
        if self._closed:
            raise StageError("sandbox: the pool is closed")
        process = self._ready.get()
        if isinstance(process, OSError):
            raise StageError(f"sandbox: cannot start: {process}")
        self._wanted.put(True)  # the next one starts while this job runs
        try:
            if _line(process, START_SECONDS) != b"ready\n":
                raise StageError(f"sandbox: {self.isolation} did not become ready: {_errors(process)}")
            request = {"files": job.files, "steps": [step.request() for step in job.steps]}
            _send(process, marshal.dumps(request))
            begin = time.monotonic()
            reply = _reply(process, job.seconds + GRACE)
        finally:
            end(process)
        seconds = time.monotonic() - begin
        if reply:
            return replace(result_of(job, read_outcomes(reply)), wall_seconds=seconds)
        # The supervisor itself was ended or starved: there is no report.
        late: Status = "timeout" if seconds >= job.seconds else "failed"
        return SandboxResult(late, "", "the sandbox ended without a report", seconds, wall_seconds=seconds)

    def map(self, jobs: Iterable[Job], done: Callable[[], Any] = lambda: None) -> Iterator[SandboxResult]:
        """Results in the order of the jobs; ``done()`` is called after each."""

        def one(job: Job) -> SandboxResult:
            result = self.run(job)
            done()
            return result

        with ThreadPoolExecutor(self.workers) as threads:
            yield from threads.map(one, jobs)

    def close(self) -> None:
        """End the sandboxes that wait."""
        if self._closed:
            return
        self._closed = True
        self._wanted.put(False)
        self._spawner.join()
        with contextlib.suppress(queue.Empty):
            while True:
                process = self._ready.get_nowait()
                if not isinstance(process, OSError):
                    end(process)

    def _spawn(self) -> None:
        while self._wanted.get():
            try:
                self._ready.put(start(self.isolation))
            except OSError as error:
                self._ready.put(error)


def start(isolation: Isolation) -> Process:
    """One sandbox, which writes ``ready`` when it is."""
    process = subprocess.Popen(
        sandbox_command(isolation), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={}, cwd="/tmp", start_new_session=True, bufsize=0,
    )  # fmt: skip
    _send(process, supervisor_code())  # a pipe holds more than that: nothing waits here
    return process


def end(process: Process) -> None:
    """Kill the sandbox: the kernel ends everything inside with its process 1, and only then lets that one go.

    Killing bubblewrap alone is not enough: without capabilities it may not take a process of another user along.
    """
    assert process.stdin
    process.stdin.close()  # one that waits for its job, or looks up from it, takes this for the end
    if process.poll() is None:
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            for child in children:
                os.kill(int(child), signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for stream in (process.stdout, process.stderr):
        if stream:
            stream.close()


def _send(process: Process, data: bytes) -> None:
    assert process.stdin
    view = memoryview(data)
    with contextlib.suppress(BrokenPipeError):  # it is gone, which the missing reply will say
        while view:
            view = view[os.write(process.stdin.fileno(), view) :]


def _read(process: Process, deadline: float, parts: bytearray) -> bool:
    """Read what there is, or wait for it; False at the sandbox's end or at the deadline."""
    assert process.stdout
    file = process.stdout.fileno()
    poll = select.poll()
    poll.register(file, select.POLLIN)
    left = deadline - time.monotonic()
    if left <= 0 or not poll.poll(left * 1000):
        return False
    part = os.read(file, 1 << 20)
    parts += part
    return bool(part)


def _line(process: Process, seconds: float) -> bytes:
    deadline, parts = time.monotonic() + seconds, bytearray()
    while not parts.endswith(b"\n") and _read(process, deadline, parts):
        pass
    return bytes(parts)


def _reply(process: Process, seconds: float) -> bytes:
    """The outcomes as the supervisor writes them; nothing where they did not all come in time."""
    deadline, parts = time.monotonic() + seconds, bytearray()
    while _read(process, deadline, parts):
        length, newline, body = parts.partition(b"\n")
        if newline and len(body) == int(length):
            return bytes(body)
    return b""


def _errors(process: Process) -> str:
    end_of = process.stderr
    process.kill()
    return end_of.read().decode("utf-8", "replace")[-500:] if end_of else ""


_shared: dict[bool, SandboxPool] = {}
_lock = threading.Lock()


def shared_pool(own_code: bool = False) -> SandboxPool:
    """This process's pool, started when first asked for."""
    with _lock:
        if own_code not in _shared:
            _shared[own_code] = pool = SandboxPool(own_code=own_code)
            atexit.register(pool.close)
        return _shared[own_code]


os.register_at_fork(after_in_child=_shared.clear)  # a fork has the processes' pipes but not the thread that serves them
