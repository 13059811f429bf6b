"""The store on an S3 server that keeps data on disk, is killed in the middle of the work and comes back."""

import threading
import time

from infra_support import free_port
from s3_server import make_bucket, remove_sockets, start

from infra.s3 import s3_client
from infra.settings import Settings
from infra.store import open_store


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
        make_bucket(s3_client(settings), "forge")
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
        remove_sockets(ports)
