"""Shared by the benchmarks: contenders in processes of their own that run in turns, and the machine's ceilings.

Machines that people share are noisy. Contenders therefore take turns of a few steps, and what is reported is the
median over the turns of the *ratio* between two neighbours in time. Each has a process of its own, so that the peak
of its memory is its own too.
"""

import multiprocessing
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median, quantiles
from typing import Any

Step = Callable[[], Any]


@dataclass
class Measured:
    """Of one contender."""

    seconds: list[float] = field(default_factory=list)
    """A step, one value a turn."""
    first: Any = None
    """What the first step returned, to check that the contenders do the same."""
    last: Any = None
    """What the last step returned."""
    peak_bytes: int = 0
    """Highest resident memory of the process."""
    idle_bytes: int = 0
    """Resident memory after the imports, before anything was built."""

    @property
    def median(self) -> float:
        return median(self.seconds)


def take_turns(
    contenders: dict[str, tuple[Callable[..., Step], tuple[Any, ...]]], *, turns: int = 7, steps: int = 3,
    threads: int = 2,
) -> dict[str, Measured]:  # fmt: skip
    """Build every contender (``factory(*arguments)`` returns its step) in a process, then let them take turns.

    The first turn warms up and is not counted. Seconds are the ``clock``'s.
    """
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    processes = []
    try:
        for name, (factory, arguments) in contenders.items():
            pipes[name], theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, factory, arguments, threads), daemon=True)
            process.start()
            theirs.close()
            processes.append(process)
            _answer(pipes[name], name)  # built
        measured = {name: Measured() for name in contenders}
        for turn in range(turns + 1):
            for name, pipe in pipes.items():
                pipe.send(steps if turn else 1)
                seconds, first, measured[name].last = _answer(pipe, name)
                if turn:
                    measured[name].seconds.append(seconds)
                else:
                    measured[name].first = first
        for name, pipe in pipes.items():
            pipe.send(0)
            measured[name].peak_bytes, measured[name].idle_bytes = _answer(pipe, name)
        return measured
    finally:
        for process in processes:
            process.kill()


def clock() -> Callable[[], float]:
    """With one thread the process's own CPU seconds, so that waiting for a core does not count; else the wall's."""
    import torch

    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


class Pace:
    """Turns a trainer, which runs from its first update to its last, into steps of one update each.

    ``work(pace)`` runs in a thread of its own and calls ``pace.wait()`` after every update. The first step therefore
    includes all that comes before the first update.
    """

    def __init__(self, work: Callable[["Pace"], Any]) -> None:
        import torch

        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._error: BaseException | None = None
        threads = torch.get_num_threads()

        def run() -> None:
            self._go.acquire()
            try:
                torch.set_num_threads(threads)  # a thread of its own starts with all cores
                work(self)
                self._error = RuntimeError("the trainer has ended: it was told to make too few updates")
            except BaseException as error:
                self._error = error
            self._done.release()

        threading.Thread(target=run, daemon=True).start()

    def wait(self) -> None:
        """Called by the trainer: an update is done."""
        self._done.release()
        self._go.acquire()

    def step(self) -> None:
        """Let the trainer make one update."""
        self._go.release()
        self._done.acquire()
        if self._error is not None:
            raise self._error


def ratio(slower: Measured, faster: Measured) -> tuple[float, float, float]:
    """How many times faster: median, lower and upper quartile of the turns' ratios."""
    ratios = [a / b for a, b in zip(slower.seconds, faster.seconds, strict=True)]
    low, middle, high = quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return middle, low, high


def copy_ceiling(seconds: float = 0.5, size: int = 2**27) -> float:
    """Bytes/s that this machine reads from memory: a sum over ``size`` bytes, far beyond the caches."""
    import torch

    values = torch.ones(size // 4)
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        begin = time.perf_counter()
        values.sum()
        best = min(best, time.perf_counter() - begin)
    return size / best


def peak_memory(pid: int | None = None) -> int:
    """Highest resident bytes of this process, or of the one with this id, so far. Raises OSError where it is gone."""
    return _status("VmHWM", str(pid or "self"))


def _answer(pipe: Connection, name: str) -> Any:
    try:
        return pipe.recv()
    except EOFError:
        raise SystemExit(f"{name}: its process died (its own error stands above)") from None


def _serve(pipe: Connection, factory: Callable[..., Step], arguments: tuple[Any, ...], threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    idle: list[int] = []
    step = factory(*arguments, lambda: idle.append(_status("VmRSS")))
    pipe.send(None)
    now = clock()
    while steps := pipe.recv():
        begin = now()
        results = [step() for _ in range(steps)]
        pipe.send(((now() - begin) / steps, results[0], results[-1]))
    pipe.send((_status("VmHWM"), idle[0] if idle else 0))


def _status(key: str, process: str = "self") -> int:
    """Bytes. ``ru_maxrss`` would count what the process was before it was this one."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    return 0
