"""Long work that a page starts: a process of its own, which outlives the page and the server behind it."""

import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path


def start_job(module: str, arguments: Sequence[str], log: Path, ended: Callable[[int, str], None]) -> int:
    """``python -m module arguments`` with its output in ``log``; returns its process id.

    ``ended(exit code, last line of the log)`` is called from a thread when it ends, if this process is still there.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True,
        )  # fmt: skip

    def wait() -> None:
        code = process.wait()
        lines = log.read_text(errors="replace").split("\n")
        ended(code, next((line.strip() for line in reversed(lines) if line.strip()), ""))

    threading.Thread(target=wait, name=f"wait for {module}", daemon=True).start()
    return process.pid


__all__ = ["start_job"]
