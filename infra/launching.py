"""Starts the ranks of a training stage through DeepSpeed's launcher, watches over them and ends them.

Ranks and their parent share a folder. A rank leaves there ``rank-R.pid`` (while it works), ``rank-R.beat`` (touched
whenever it gets on), ``rank-R.done`` or ``rank-R.error``; the first one appends what a person should see to
``events.jsonl``. Over several hosts the folder must be on a file system that all of them see.
"""

import base64
import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.errors import InfraError

POLL = 0.2  # seconds
GRACE = 10.0  # seconds that ranks get to end by themselves
LAST_LINES = 5

LOST = "lost"
"""Kind of the error of a rank that could not reach another: that one is the cause."""

Event = dict[str, Any]


class RankFailed(InfraError):
    """A rank died or stalled without saying why: trying again resumes from the last checkpoint."""


class RankError(InfraError):
    """A rank raised an error; ``kind`` is its type's name."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class Ranks:
    """How many processes, where."""

    world_size: int
    host_file: Path | None = None
    stall_seconds: float = 1800.0
    threads: int = 0
    """CPU threads of each rank; 0: its share of this host's cores."""


def launch(
    module: str, arguments: Sequence[str], ranks: Ranks, folder: Path, on_event: Callable[[Event], None],
    environment: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    """Run ``python -m module *arguments`` as every rank; returns when all have ended well.

    Raises RankError with what the first failing rank raised, RankFailed with a dead or stalled rank's last lines.
    """
    for old in (*folder.glob("rank-*.*"), *folder.glob("events.jsonl"), *(folder / "logs").glob("*")):
        old.unlink()
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    command = launcher_command(module, arguments, ranks, folder)
    with (folder / "launcher.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            env=rank_environment(ranks) | dict(environment or {}), preexec_fn=_die_with_parent,
        )  # fmt: skip
    events = _Tail(folder / "events.jsonl")
    try:
        while process.poll() is None:
            _forward(events, on_event)
            _check(folder, ranks)
            time.sleep(POLL)
        _forward(events, on_event)
        _check(folder, ranks)
        if process.returncode or len(list(folder.glob("rank-*.done"))) < ranks.world_size:
            _check_lost(folder)
            raise RankFailed(f"the ranks ended with exit code {process.returncode}: {_tail(folder / 'launcher.log')}")
    finally:
        _end(process)


def launcher_command(module: str, arguments: Sequence[str], ranks: Ranks, folder: Path) -> list[str]:
    """DeepSpeed's launcher of one host, or its runner over the hosts of a host file."""
    tail = ["--module", "--no_local_rank", "--enable_each_rank_log", str(folder / "logs")]
    port = str(_free_port())
    if ranks.host_file is None:
        world = base64.urlsafe_b64encode(json.dumps({"localhost": list(range(ranks.world_size))}).encode()).decode()
        return [
            sys.executable, "-m", "deepspeed.launcher.launch", "--world_info", world, "--node_rank", "0",
            "--master_addr", "127.0.0.1", "--master_port", port, *tail, module, *arguments,
        ]  # fmt: skip
    hosts = read_host_file(ranks.host_file)
    slots = sum(hosts.values())
    if slots != ranks.world_size:
        raise InfraError(f"{ranks.host_file} has {slots} slots, the world size is {ranks.world_size}; make them equal")
    return [
        sys.executable, "-m", "deepspeed.launcher.runner", "--hostfile", str(ranks.host_file),
        "--master_port", port, *tail, module, *arguments,
    ]  # fmt: skip


def read_host_file(path: Path) -> dict[str, int]:
    """``host slots=N`` a line -> slots by host. Raises InfraError with the line that is wrong."""
    hosts: dict[str, int] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InfraError(f"cannot read the host file {path}: {error.strerror}") from None
    for number, line in enumerate(lines, start=1):
        text = line.split("#")[0].split()
        if not text:
            continue
        if len(text) != 2 or not text[1].startswith("slots=") or not text[1][6:].isdigit():
            raise InfraError(f"{path}, line {number}: expected 'host slots=N', got {line.strip()!r}")
        hosts[text[0]] = int(text[1][6:])
    if not hosts:
        raise InfraError(f"{path} names no host; expected lines like 'host slots=8'")
    return hosts


def rank_environment(ranks: Ranks) -> dict[str, str]:
    """This environment with a rank's share of the cores, or every rank's threads would wait for all the others'."""
    from infra.hardware import resolve_threads

    local = ranks.world_size if ranks.host_file is None else max(read_host_file(ranks.host_file).values())
    threads = ranks.threads or max(1, resolve_threads() // local)
    return {
        **os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads),
        "QWENFORGE_STALL_SECONDS": str(int(ranks.stall_seconds)), "PYTHONFAULTHANDLER": "1",
    }  # fmt: skip


def _check(folder: Path, ranks: Ranks) -> None:
    """Raise for the first rank that failed, died or stalled."""
    errors = _errors(folder)
    for error in errors:
        if error["kind"] != LOST:
            raise RankError(error["message"], error["kind"])
    for path in folder.glob("rank-*.pid"):
        rank = int(path.stem.removeprefix("rank-"))
        if path.with_suffix(".done").exists() or path.with_suffix(".error").exists():
            continue
        with contextlib.suppress(ValueError, OSError):
            host, pid = path.read_text().split()
            here = host == socket.gethostname()
            if here and not _lives(int(pid)) and not path.with_suffix(".done").exists():
                raise RankFailed(f"rank {rank} died; its last lines: {_tail(_log(folder, rank))}")
            beat = path.with_suffix(".beat")
            silent = time.time() - (beat if beat.exists() else path).stat().st_mtime
            if silent > ranks.stall_seconds:
                if here:  # its stack goes to its log
                    os.kill(int(pid), signal.SIGUSR1)
                    time.sleep(1.0)
                raise RankFailed(
                    f"rank {rank} has not got on for {silent:.0f} s; its last lines: {_tail(_log(folder, rank))}"
                )
    # Nobody here is dead, but somebody misses somebody: a rank on another host, most likely.
    if errors and time.time() - errors[0]["time"] > GRACE:
        raise RankFailed(errors[0]["message"])


def _check_lost(folder: Path) -> None:
    """After the end: a rank that missed another says more than the launcher does."""
    for error in _errors(folder):
        raise RankFailed(error["message"])


def _errors(folder: Path) -> list[Event]:
    """What ranks raised, oldest first."""
    found = []
    for path in folder.glob("rank-*.error"):
        found.append(json.loads(path.read_text()) | {"time": path.stat().st_mtime})
    return sorted(found, key=lambda error: error["time"])


def _lives(pid: int) -> bool:
    """Whether a process runs: one that its launcher has not reaped yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in ("Z", "X")
    except OSError:
        return False


def _log(folder: Path, rank: int) -> Path:
    found = sorted((folder / "logs").glob(f"*_rank{rank}.log"))
    return found[-1] if found else folder / "launcher.log"


def _tail(path: Path) -> str:
    try:
        lines = [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        lines = []
    return " | ".join(lines[-LAST_LINES:]) or "(it wrote nothing)"


def _end(process: subprocess.Popen[bytes]) -> None:
    """No rank outlives this: first politely, then the whole process group."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _die_with_parent() -> None:
    """In the child, before it becomes the launcher: SIGTERM when this process ends, however it ends (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _forward(events: "_Tail", on_event: Callable[[Event], None]) -> None:
    for line in events.lines():
        on_event(json.loads(line))


class _Tail:
    """Whole lines that a file has gained since the last look."""

    def __init__(self, path: Path) -> None:
        self.path, self.place = path, 0

    def lines(self) -> list[str]:
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(self.place)
            data = file.read()
        end = data.rfind(b"\n") + 1
        self.place += end
        return data[:end].decode().splitlines()


__all__ = [
    "LOST", "Event", "RankError", "RankFailed", "Ranks", "launch", "launcher_command", "rank_environment",
    "read_host_file",
]  # fmt: skip
