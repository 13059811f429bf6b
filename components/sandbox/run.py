"""Runs Python snippets in isolation and says how each ended.

>>> run_python("assert sum(range(4)) == 6").status
'passed'

The sandbox has no network, no environment, no files but the interpreter's, a small ``/tmp`` of its own, and limits
on memory, processes, time and output. Code that a model wrote runs only like this; where the host offers no isolation
``StageError`` says what to install. The kernel itself is the boundary: for hostile code use a virtual machine.
"""

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from components.sandbox.isolation import Isolation, available_isolation, isolated_command
from components.stage import StageError

Status = Literal["passed", "failed", "timeout", "out-of-memory", "blocked"]
_RUNNER = Path(__file__).with_name("runner.py")
_REFUSALS = (
    "PermissionError", "BlockingIOError", "Network is unreachable", "socket.gaierror", "ConnectionRefusedError",
    "Read-only file system", "Resource temporarily unavailable",
)  # fmt: skip


@dataclass(frozen=True)
class SandboxResult:
    """How a snippet ended. ``passed``: it ran to its last line; an early ``exit(0)`` is ``failed``."""

    status: Status
    stdout: str
    stderr: str


def run_python(code: str, *, timeout: float = 5.0, memory_mb: int = 512, output_bytes: int = 64_000) -> SandboxResult:
    """Run one snippet. ``timeout`` in seconds of wall clock, ``output_bytes`` the most it may write to a file."""
    return run_many([code], timeout=timeout, memory_mb=memory_mb, output_bytes=output_bytes)[0]


def run_many(
    snippets: Sequence[str],
    *,
    timeout: float = 5.0,
    memory_mb: int = 512,
    output_bytes: int = 64_000,
    own_code: bool = False,
) -> list[SandboxResult]:
    """Run snippets one after another in one sandbox, each in a process and folder of its own.

    ``own_code`` says that this project composed the snippets: then a host without isolation runs them under resource
    limits alone. Never set it for what a model wrote.
    """
    isolation = available_isolation()
    if isolation == "limits" and not own_code:
        raise StageError(
            "sandbox: this host lets us isolate nothing, so model-written code is not run; install bubblewrap, "
            "or allow user namespaces (sysctl kernel.unprivileged_userns_clone=1), or run as root"
        )
    request = {"snippets": list(snippets), "timeout": timeout, "memory_mb": memory_mb, "output_bytes": output_bytes}
    replies = _replies(isolation, request, deadline=10 + (timeout + 1) * len(snippets))
    missing: dict[str, Any] = {"completed": False, "status": 9, "timeout": False, "stdout": "", "stderr": "no reply"}
    return [_result(replies.get(number, missing)) for number in range(len(snippets))]


def _replies(isolation: Isolation, request: dict[str, Any], deadline: float) -> dict[int, dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            isolated_command(isolation, _RUNNER.read_text()),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={},
            cwd=folder,
            start_new_session=True,
        )
        try:
            output, errors = process.communicate(json.dumps(request).encode(), timeout=deadline)
        except subprocess.TimeoutExpired:
            output, errors = b"", b"the sandbox as a whole ran out of time"
        finally:
            _kill(process)
    if not output:
        raise StageError(f"sandbox: {isolation} gave no result: {errors.decode('utf-8', 'replace')[-500:]}")
    replies = (json.loads(line) for line in output.splitlines() if line.endswith(b"}"))
    return {reply["number"]: reply for reply in replies}


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the sandbox: the launcher's end takes process 1 with it, and the kernel everything inside."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _result(reply: dict[str, Any]) -> SandboxResult:
    last_line = reply["stderr"].strip().rpartition("\n")[2]
    status: Status
    if reply["timeout"] or _killed(reply["status"], signal.SIGXCPU):
        status = "timeout"
    elif reply["completed"]:
        status = "passed"
    elif last_line.startswith("MemoryError") or _killed(reply["status"], signal.SIGKILL):
        status = "out-of-memory"
    elif any(refusal in last_line for refusal in _REFUSALS):
        status = "blocked"
    else:
        status = "failed"
    return SandboxResult(status, reply["stdout"], reply["stderr"])


def _killed(status: int, by: signal.Signals) -> bool:
    """Ended by this signal; SIGKILL without a timeout is what the kernel does to a process beyond its memory."""
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == by


__all__ = ["SandboxResult", "Status", "run_many", "run_python"]
