"""Runs snippets one after another inside the isolation. A program: started with ``python -I -S -c``.

Reads one JSON request on standard input, ``{"snippets": [...], "timeout": s, "memory_mb": MB, "output_bytes": n}``,
and writes a JSON line for each snippet when it has ended. Each snippet runs in a fork of this process, which is warm,
so that a snippet costs about a millisecond and cannot touch the next one.
"""

# ruff: noqa: PTH109, PTH118, PTH123, SIM105

import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time

REPLIES = 3
"""File descriptor of the result lines while snippets run; snippets do not inherit it."""


def main() -> None:
    request = json.load(sys.stdin)
    os.dup2(1, REPLIES)
    null = os.open("/dev/null", os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    for number, code in enumerate(request["snippets"]):
        reply = {"number": number, **run(code, request)}
        os.write(REPLIES, (json.dumps(reply) + "\n").encode())


def run(code: str, request: dict) -> dict:
    """Outcome of one snippet: ``completed`` (ran to its end), ``code`` (wait status), ``timeout``, texts."""
    folder = tempfile.mkdtemp(dir=os.getcwd())
    os.chdir(folder)
    for name in ("stdout", "stderr"):
        open(name, "wb").close()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _child(code, request, writing)
    os.close(writing)
    status, timed_out = _wait(child, request["timeout"])
    if os.getpid() == 1:  # alone in a process namespace: end whatever the snippet left behind
        try:
            os.kill(-1, signal.SIGKILL)
        except ProcessLookupError:
            pass
        _reap()
    os.set_blocking(reading, False)
    try:
        completed = os.read(reading, 1) == b"+"
    except BlockingIOError:
        completed = False
    os.close(reading)
    outputs = _outputs(folder, request["output_bytes"])
    os.chdir("..")
    shutil.rmtree(folder, ignore_errors=True)
    return {"completed": completed, "status": status, "timeout": timed_out, **outputs}


def _child(code: str, request: dict, done: int) -> None:
    os.close(REPLIES)
    os.setsid()
    limits = {
        resource.RLIMIT_CPU: int(request["timeout"]) + 1,
        resource.RLIMIT_AS: request["memory_mb"] << 20,
        resource.RLIMIT_FSIZE: request["output_bytes"],
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: 64,
    }
    for kind, value in limits.items():
        resource.setrlimit(kind, (value, value))
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_APPEND), descriptor)
    try:
        exec(compile(code, "<snippet>", "exec"), {"__name__": "__main__"})
        sys.stdout.flush()
        os.write(done, b"+")
    except BaseException:
        import traceback

        try:
            traceback.print_exc()
            sys.stderr.flush()
        except BaseException:
            pass
        os._exit(1)
    os._exit(0)


def _wait(child: int, timeout: float) -> "tuple[int, bool]":
    """Wait status of the child and whether it had to be killed; polls finely at first, then every 5 ms."""
    end, pause = time.monotonic() + timeout, 0.0002
    while True:
        waited, status = os.waitpid(child, os.WNOHANG)
        if waited:
            return status, False
        if time.monotonic() > end:
            try:
                os.killpg(child, signal.SIGKILL)
            except ProcessLookupError:
                os.kill(child, signal.SIGKILL)
            return os.waitpid(child, 0)[1], True
        time.sleep(pause)
        pause = min(0.005, pause * 1.5)


def _reap() -> None:
    try:
        while True:
            os.waitpid(-1, 0)
    except ChildProcessError:
        return


def _outputs(folder: str, limit: int) -> "dict[str, str]":
    texts = {}
    for name in ("stdout", "stderr"):
        try:
            with open(os.path.join(folder, name), "rb") as file:
                texts[name] = file.read(limit).decode("utf-8", "replace")
        except OSError:  # the snippet removed it
            texts[name] = ""
    return texts


if __name__ == "__main__":
    main()
