"""Where the time and the memory of a step go. Sums are kept, and one set of metrics is sent a window of steps."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from components.training import communication

PHASES = ("data", "forward", "backward", "optimizer", "communication", "checkpoint")


class Telemetry:
    """Times the phases of steps. On a GPU work is queued: a phase's time is what the process waited in it."""

    def __init__(self, flops_per_token: float, ceiling: float, world_size: int = 1) -> None:
        self.flops_per_token, self.ceiling = flops_per_token, ceiling * world_size
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.steps = 0
        self.started = self.now = time.perf_counter()

    def mark(self, phase: str) -> None:
        """What passed since the last mark belonged to ``phase``, but for what was waited for other ranks in it."""
        now, waited = time.perf_counter(), communication.take()
        self.seconds[phase] += now - self.now - waited
        self.seconds["communication"] += waited
        self.now = now

    def metrics(self, tokens: int) -> dict[str, float]:
        """Rates and times a step since the last call, in which ``tokens`` tokens were trained on; starts anew."""
        now = time.perf_counter()
        spent = max(1e-9, now - self.started)
        rate = tokens / spent
        found = {f"seconds/{phase}": seconds / max(1, self.steps) for phase, seconds in self.seconds.items()}
        found |= {
            "tokens_per_second": rate,
            "seconds/step": spent / max(1, self.steps),
            "memory_bytes": float(memory_bytes()),
        }
        if self.ceiling and self.flops_per_token:
            found["utilisation"] = rate * self.flops_per_token / self.ceiling
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.steps, self.started = 0, now
        return found

    @contextmanager
    def step(self) -> Iterator[None]:
        self.now = time.perf_counter()
        communication.take()  # what was before this step
        yield
        self.steps += 1


def memory_bytes() -> int:
    """On a GPU the highest that tensors have taken, else what this process holds."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # no Linux: the highest instead
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


__all__ = ["PHASES", "Telemetry", "memory_bytes"]
