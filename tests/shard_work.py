"""Work for the tests of executors: what other processes run must be in a module that they can import."""

import os
import time
from pathlib import Path

SLOW = 60.0
"""Seconds."""


def first_alone_is_quick(job: int) -> int:
    if job:
        time.sleep(SLOW)
    return job


def square(job: int) -> int:
    return job * job


def tell_and_wait(job: tuple[Path, int, int]) -> int:
    """The square of a number. The first attempt at ``waits`` writes its process id down and waits to be killed."""
    folder, number, waits = job
    with (folder / f"attempts-{number}").open("a") as file:
        file.write(f"{os.getpid()}\n")
    if number == waits and len((folder / f"attempts-{number}").read_text().split()) == 1:
        time.sleep(120)
    return number * number


def die(job: int) -> None:
    os._exit(9)


def fail_once(job: tuple[Path, int]) -> int:
    """The system fails the first attempt."""
    folder, number = job
    marker = folder / f"failed-{number}"
    if number == 2 and not marker.exists():
        marker.touch()
        raise ConnectionResetError("connection reset by peer")
    return number


def wrong(job: tuple[Path, int]) -> int:
    """Fails in the same way each time, and counts how often it was asked."""
    folder, number = job
    with (folder / f"asked-{number}").open("a") as file:
        file.write(".")
    return 1 // number


def tell_and_sleep(file):
    """Write the worker's process id, and go on for longer than anybody waits."""
    partial = file.with_suffix(".partial")
    partial.write_text(str(os.getpid()))
    partial.replace(file)
    time.sleep(300)
