"""How long this process waits for other ranks: in collective operations, and for those that run beside it.

On a GPU operations are queued, and what is counted is what the process itself waits.
"""

import functools
import time
from collections.abc import Callable
from typing import Any

COLLECTIVES = (
    "all_reduce", "all_reduce_coalesced", "reduce", "reduce_scatter", "reduce_scatter_tensor", "broadcast",
    "all_gather", "all_gather_into_tensor", "all_gather_base", "all_gather_coalesced", "all_to_all_single",
    "all_to_all", "barrier",
)  # fmt: skip
"""Of DeepSpeed's backend."""

_waited, _inside = 0.0, False


def take() -> float:
    """Seconds since the last call."""
    global _waited
    found, _waited = _waited, 0.0
    return found


def timed(operation: Callable[..., Any]) -> Callable[..., Any]:
    """``operation`` with its time counted, and that of waiting for its result where it hands out a promise."""

    @functools.wraps(operation)
    def call(*arguments: Any, **options: Any) -> Any:
        result = _count(operation, *arguments, **options)
        return _Promise(result) if hasattr(result, "wait") else result

    call.is_timed = True  # type: ignore[attr-defined]
    return call


def watch(backend: Any) -> None:
    """Count what is waited for in ``backend``, once."""
    for name in COLLECTIVES:
        operation = getattr(backend, name, None)
        if operation is not None and not getattr(operation, "is_timed", False):
            setattr(backend, name, timed(operation))


class _Promise:
    """A running operation, as its library gave it."""

    def __init__(self, work: Any) -> None:
        self._work = work

    def wait(self, *arguments: Any, **options: Any) -> Any:
        return _count(self._work.wait, *arguments, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)


def _count(operation: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    global _waited, _inside
    if _inside:  # one is made of others
        return operation(*arguments, **options)
    begin, _inside = time.perf_counter(), True
    try:
        return operation(*arguments, **options)
    finally:
        _waited, _inside = _waited + time.perf_counter() - begin, False


__all__ = ["COLLECTIVES", "take", "timed", "watch"]
