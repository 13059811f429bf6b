"""A dashboard as a user starts it, and a real browser in front of it."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
SETTLED = '[data-testid="stApp"][data-test-script-state="notRunning"]'


@contextmanager
def served(home: Path, **environment: str) -> Iterator[str]:
    """``qwenforge dashboard`` on this home at a free port of the loopback; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "dashboard", "--port", str(port)],
        cwd=ROOT, env={**os.environ, "QWENFORGE_HOME": str(home), **environment}, stdout=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(f"{address}/_stcore/health", server)
        yield address
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(20)


def wait_for(url: str, server: subprocess.Popen, seconds: float = 300) -> None:
    """Until ``url`` answers; an error if the server ends first."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, TimeoutError):
            if server.poll() is not None:
                raise RuntimeError(f"the dashboard ended with exit code {server.returncode}") from None
            time.sleep(0.2)
    raise TimeoutError(f"{url} did not answer within {seconds} seconds")


def chromium() -> str | None:
    """The browser that the distribution has."""
    return shutil.which("chromium") or shutil.which("google-chrome")


@contextmanager
def browser() -> Iterator[Any]:
    """A playwright browser on the distribution's Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        try:
            yield opened
        finally:
            opened.close()
