"""Work on shards of documents in several processes or on a Ray cluster, with results that do not depend on which.

A shard is tried again, alone, where its process was ended (kill, out of memory) or the system failed it (any OSError:
a network file system, a bucket). Any other error is the work's own answer, which would not be another one next time.
"""

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from components.stage import Layout, StageError

Job = TypeVar("Job")
Result = TypeVar("Result")

ATTEMPTS = 3
"""Of a shard, before the stage fails."""


class WorkerDied(Exception):
    """The process that worked on a shard was ended from outside."""


class Executor(Protocol):
    """Does one job somewhere and waits for it; called from ``workers`` threads at once."""

    workers: int

    def __call__(self, work: Callable[[Any], Any], job: Any) -> Any:
        """``work(job)``, or its error; WorkerDied where it was not let finish."""
        ...

    def abandon(self) -> None:
        """End what is being worked on, now and from now on: nobody wants it any more. Its calls raise WorkerDied."""
        ...

    def close(self) -> None:
        """After the last call has returned."""
        ...


def available_workers() -> int:
    """Processors that this process may use, which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_shards(
    work: Callable[[Job], Result], jobs: Sequence[Job], workers: int | None = None, layout: Layout | None = None
) -> Iterator[Result]:
    """``work(job)`` for every job, results in the order of the jobs; ``layout`` says where (here by default).

    ``work`` must be a module-level function. A single job or worker stays in this process.
    """
    if layout is not None and layout.data_engine == "ray" and jobs:
        from components.data.ray_tasks import RayTasks

        yield from run(work, jobs, RayTasks(layout.ray_address))
        return
    workers = min(workers or available_workers(), len(jobs))
    yield from run(work, jobs, Processes(workers) if workers > 1 else ThisProcess())


def run(work: Callable[[Job], Result], jobs: Sequence[Job], executor: Executor) -> Iterator[Result]:
    """Results in order, from as many threads as there are workers: each waits for one worker at a time."""
    if isinstance(executor, ThisProcess):
        yield from (attempt(work, job, executor, threading.Event()) for job in jobs)
        return
    over, finished = threading.Event(), False
    threads = ThreadPoolExecutor(executor.workers, thread_name_prefix="shards")
    try:
        futures = [threads.submit(attempt, work, job, executor, over) for job in jobs]
        for future in futures:
            yield future.result()
        finished = True
    finally:  # a user who presses Ctrl-C does not want to wait for a shard of minutes
        over.set()
        threads.shutdown(wait=False, cancel_futures=True)
        if not finished:
            executor.abandon()
        threads.shutdown()
        executor.close()


def attempt(work: Callable[[Job], Result], job: Job, executor: Executor, over: threading.Event) -> Result:
    """``work(job)`` by ``executor``, tried again where that may help, until ``over``."""
    from tenacity import (
        Retrying,
        before_sleep_log,
        retry_if_exception_type,
        sleep_using_event,
        stop_after_attempt,
        stop_when_event_set,
        wait_random_exponential,
    )

    again = Retrying(
        retry=retry_if_exception_type((WorkerDied, OSError)),
        stop=stop_after_attempt(ATTEMPTS) | stop_when_event_set(over),
        wait=wait_random_exponential(multiplier=0.5, max=10),
        sleep=sleep_using_event(over),
        before_sleep=before_sleep_log(logging.getLogger(__name__), logging.WARNING),
        reraise=True,
    )
    try:
        return again(executor, work, job)
    except WorkerDied as error:
        raise StageError(f"{error}, {ATTEMPTS} times; where memory ran out, run with fewer processors") from error


class ThisProcess:
    """No other process."""

    workers = 1

    def __call__(self, work: Callable[[Job], Result], job: Job) -> Result:
        return work(job)

    def abandon(self) -> None: ...

    def close(self) -> None: ...


def end_with_parent() -> None:
    """Called in a worker. Who is killed tells nobody: its workers would go on with their shards, beside those of its
    next start."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


class Processes:
    """A process for each thread that calls, so that one which dies takes one shard with it and is replaced.

    Processes are spawned, not forked: a fork of a process with threads (torch, Prefect, MLflow) may deadlock.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._mine = threading.local()
        self._pools: dict[int, ProcessPoolExecutor] = {}
        """By the number of their process."""
        self._over = False

    def __call__(self, work: Callable[[Job], Result], job: Job) -> Result:
        process: int | None = getattr(self._mine, "process", None)
        try:
            if process is None:
                context = multiprocessing.get_context("spawn")
                pool = ProcessPoolExecutor(1, mp_context=context, initializer=end_with_parent)
                self._mine.process = process = pool.submit(os.getpid).result()
                self._pools[process] = pool
            if self._over:
                raise WorkerDied("nobody wants the result any more")
            return self._pools[process].submit(work, job).result()
        except BrokenProcessPool:
            self._mine.process = None
            if process is not None:
                self._pools.pop(process).shutdown()
            raise WorkerDied(f"the process of {work.__name__} was ended from outside") from None

    def abandon(self) -> None:
        self._over = True  # before the look at who is there: a process may be starting just now
        for process in list(self._pools):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGTERM)

    def close(self) -> None:
        for pool in self._pools.values():
            pool.shutdown()


__all__ = ["ATTEMPTS", "WorkerDied", "available_workers", "map_shards"]
