"""What a sandbox is asked to do and how it answers: a job of steps, limits, and typed results."""

import os
import re
import signal
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Status = Literal["passed", "failed", "wrong_answer", "compile_error", "timeout", "out_of_memory", "blocked"]
STATUSES: tuple[Status, ...] = (
    "passed", "failed", "wrong_answer", "compile_error", "timeout", "out_of_memory", "blocked",
)  # fmt: skip
WRONG_ANSWER = 99
"""Exit code by which a test template says that a value differs from the expected one."""

_MEMORY = re.compile(
    r"MemoryError|bad_alloc|OutOfMemoryError|heap out of memory|[Oo]ut of memory|Allowed memory size|NoMemoryError"
    r"|not enough memory|[Cc]annot allocate|memory allocation of|unable to alloc|Heap exhausted"
)
_REFUSAL = re.compile(
    r"PermissionError|Permission denied|Operation not permitted|Network is unreachable|gaierror|ConnectionRefusedError"
    r"|Read-only file system|Resource temporarily unavailable|BlockingIOError|EPERM|EACCES|EROFS|ENETUNREACH"
    r"|Function not implemented|Temporary failure in name resolution|No space left on device|ENOSPC|EAI_AGAIN"
    r"|Address family not supported"
)


@dataclass(frozen=True)
class Limits:
    """Of one step. ``address_space``: limit what is mapped, not only what is written; managed runtimes map far more
    than they use, so they need False. ``memory_mb`` holds for one process and for all of them together."""

    timeout: float = 5.0
    """Seconds of wall clock; of processor time one second more."""
    memory_mb: int = 512
    address_space: bool = True
    processes: int = 16
    """Threads count too."""
    file_mb: int = 1
    """Largest file."""
    output_bytes: int = 64_000
    """What is kept of each of standard output and error."""


@dataclass(frozen=True)
class Step:
    """One program to run: a ``command`` with an absolute path, or ``python`` source text in a warm interpreter."""

    kind: Literal["check", "compile", "run"]
    limits: Limits
    command: tuple[str, ...] = ()
    python: str | None = None
    stdin: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    name: str = "program.py"

    def request(self) -> dict[str, Any]:
        """As the supervisor reads it."""
        limits = asdict(self.limits)
        limits["file_bytes"] = limits.pop("file_mb") << 20
        request = {**limits, "tree_mb": limits["memory_mb"], "stdin": self.stdin, "environment": self.environment,
                   "name": self.name}  # fmt: skip
        return {**request, "command": list(self.command)} if self.python is None else {**request, "python": self.python}


@dataclass(frozen=True)
class Job:
    """Files to write and steps to run one after another, the next only where the one before ended well."""

    steps: tuple[Step, ...]
    files: dict[str, str] = field(default_factory=dict)
    expected_output: str | None = None
    """Of the last step, compared without trailing white space; None: any."""

    @property
    def seconds(self) -> float:
        """The most that all steps may take."""
        return sum(step.limits.timeout for step in self.steps)


@dataclass(frozen=True)
class SandboxResult:
    """How a program ended. ``passed``: it came to its end, with exit code 0 and the expected output."""

    status: Status
    stdout: str
    stderr: str
    seconds: float = 0.0
    """Wall clock inside the sandbox, all steps."""
    step: str = "run"
    """The last step that ran: check, compile or run."""
    wall_seconds: float = 0.0
    """From the request to the moment when nothing of the sandbox was left."""


def read_outcomes(reply: bytes) -> list[dict[str, Any]]:
    """What the supervisor has written, step by step."""
    outcomes, rest = [], reply
    while rest:
        line, _, rest = rest.partition(b"\n")
        status, timeout, memory, marks, seconds, out, error = line.decode().split()
        outcomes.append({
            "status": int(status), "timeout": timeout == "1", "memory": memory == "1", "marks": marks.strip("-"),
            "seconds": float(seconds), "stdout": rest[: int(out)].decode("utf-8", "replace"),
            "stderr": rest[int(out) : int(out) + int(error)].decode("utf-8", "replace"),
        })  # fmt: skip
        rest = rest[int(out) + int(error) :]
    return outcomes


def result_of(job: Job, outcomes: list[dict[str, Any]]) -> SandboxResult:
    """Judge what the supervisor reports."""
    last, step = outcomes[-1], job.steps[len(outcomes) - 1]
    seconds = sum(outcome["seconds"] for outcome in outcomes)
    return SandboxResult(_status(job, step, last), last["stdout"], last["stderr"], seconds, step.kind)


def _status(job: Job, step: Step, outcome: dict[str, Any]) -> Status:
    status, errors = outcome["status"], outcome["stderr"]
    if outcome["memory"]:
        return "out_of_memory"
    if outcome["timeout"] or _killed(status, signal.SIGXCPU):
        return "timeout"
    came_to_its_end = status == 0 and (step.python is None or outcome["marks"] == "c+")
    if came_to_its_end:
        if step.kind == "run" and job.expected_output is not None:
            return "passed" if _same(outcome["stdout"], job.expected_output) else "wrong_answer"
        return "passed"
    tail = errors.strip()[-1500:]
    if status and _MEMORY.search(tail if step.python is None else tail.rpartition("\n")[2]):
        return "out_of_memory"
    if step.kind != "run" or (step.python is not None and outcome["marks"] == ""):
        return "compile_error"
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == WRONG_ANSWER:
        return "wrong_answer"
    last_line = tail.rpartition("\n")[2]
    if step.python is not None and last_line.startswith("AssertionError"):
        return "wrong_answer"
    if _killed(status, signal.SIGSYS) or (status and _REFUSAL.search(last_line if step.python is not None else tail)):
        return "blocked"
    return "failed"


def _killed(status: int, by: signal.Signals) -> bool:
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == by


def _same(given: str, expected: str) -> bool:
    def lines(text: str) -> list[str]:
        return [line.rstrip() for line in text.rstrip().splitlines()]

    return lines(given) == lines(expected)
