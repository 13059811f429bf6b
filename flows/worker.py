"""A worker for a work pool of type process (``python -m flows.worker POOL``): Prefect's own, after it has looked for
runs that a killed worker has left behind.

A worker that is killed takes its run along, and nobody tells Prefect: the run would stay ``Running`` for ever. The next
worker with this home schedules it again, and the run goes on from its last checkpoint. Every run holds a lock on a file
of its own, which the system frees however the process ends.
"""

import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

MOST_STARTS = 5
"""Of one run. What has ended so many workers (out of memory, most likely) would end the next one too."""


def main(pool: str) -> NoReturn:
    """Recover, then become Prefect's worker."""
    from flows.deploy import prefect_client
    from infra.settings import load_settings

    with prefect_client() as client:
        recover(client, load_settings().home)
    name = f"{pool}-{socket.gethostname()}"
    # One run at a time: a stage takes all cores, or the accelerator. The next one waits in Prefect's queue.
    command = [sys.executable, "-m", "prefect", "worker", "start", "--type", "process", "--pool", pool, "--name", name,
               "--limit", "1", "--with-healthcheck"]  # fmt: skip
    os.execv(sys.executable, command)


@contextmanager
def alive(home: Path, flow_run_id: str) -> Iterator[None]:
    """Inside the block this process carries out the flow run, as anybody with this home can tell."""
    path = home / "flow-runs" / flow_run_id
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = path.open("w")
        # a record lock, as of a stage's folder: no child inherits it, and it reaches other hosts of a shared home
        fcntl.lockf(file, fcntl.LOCK_EX)
        if path.exists() and os.fstat(file.fileno()).st_ino == path.stat().st_ino:
            break
        file.close()  # a worker has removed the file of an earlier start just now
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()


def recover(client: Any, home: Path) -> list[tuple[str, str]]:
    """Give every run whose process is gone a state that leads on; (run, state) of each."""
    from prefect.exceptions import ObjectNotFound

    done = []
    for path in sorted((home / "flow-runs").glob("*")):
        with path.open("r+") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue  # it lives
            try:
                run = client.read_flow_run(path.name)
            except ObjectNotFound:  # of another server, or deleted
                run = None
            if run is not None and run.state is not None and not run.state.is_final():
                state = next_state(run)
                client.set_flow_run_state(run.id, state, force=True)
                print(f"{run.name}: {state.name} ({state.message})", flush=True)
                done.append((run.name, state.name or ""))
            path.unlink()
    return done


def next_state(run: Any) -> Any:
    """What becomes of an unfinished flow run without a process."""
    from prefect.states import AwaitingRetry, Cancelled, Crashed

    if run.state.is_cancelling():
        return Cancelled(message="Its worker was ended while it was being cancelled.")
    if run.run_count >= MOST_STARTS:
        return Crashed(message=f"Its worker was ended {MOST_STARTS} times.")
    return AwaitingRetry(message="Its worker was ended; the run goes on from its last checkpoint.")


if __name__ == "__main__":
    main(sys.argv[1])

__all__ = ["alive", "main", "recover"]
