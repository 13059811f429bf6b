"""The store on S3, against a real HTTP server, with and without a network that misbehaves."""

import http.client
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import pytest
from infra_support import free_port
from moto.server import ThreadedMotoServer

from infra.backends import LocalBackend
from infra.errors import CorruptArtifact, InfraError, MissingArtifact
from infra.s3 import S3Backend, s3_client
from infra.settings import Settings
from infra.store import ArtifactStore, open_store

BUCKET = "forge"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    yield f"http://{host}:{port}"
    moto.stop()


@pytest.fixture
def settings(server, tmp_path, monkeypatch) -> Settings:
    for name, value in {
        "HOME": str(tmp_path / "home"),
        "STORE_URI": f"s3://{BUCKET}/team/runs",
        "S3_ENDPOINT_URL": server,
        "S3_ACCESS_KEY_ID": "key",
        "S3_SECRET_ACCESS_KEY": "secret",
    }.items():
        monkeypatch.setenv(f"QWENFORGE_{name}", value)
    return Settings(_env_file=None)


@pytest.fixture
def s3(settings):
    """A raw client on an empty bucket."""
    client = s3_client(settings)
    client.create_bucket(Bucket=BUCKET)
    yield client
    bucket = boto3.resource(
        "s3", endpoint_url=settings.s3_endpoint_url, aws_access_key_id="key", aws_secret_access_key="secret",
        region_name="us-east-1",
    ).Bucket(BUCKET)  # fmt: skip
    bucket.objects.all().delete()
    bucket.delete()


def keys(s3) -> list[str]:
    return [item["Key"] for item in s3.list_objects_v2(Bucket=BUCKET).get("Contents", ())]


def other_machine(settings: Settings, tmp_path: Path) -> ArtifactStore:
    """The same bucket, seen from where nothing has been read yet."""
    return open_store(settings.model_copy(update={"home": tmp_path / "other"}))


def test_a_commit_is_opened_on_another_machine(s3, settings, commit, tmp_path):
    store = open_store(settings)
    artifact = commit(store)
    store.remember("key", artifact.digest)
    other = other_machine(settings, tmp_path)
    assert other.recall("key") == artifact.digest
    opened = other.open(artifact.digest)
    assert opened.path != artifact.path
    assert (opened.path / "documents.txt").read_bytes() == b"one\ntwo\n"
    assert (opened.path / "nested/index.bin").read_bytes() == bytes(range(256))
    assert [manifest.digest for manifest in other.list()] == [artifact.digest]
    assert other.uri(artifact.digest) == f"s3://forge/team/runs/objects/{artifact.digest}/files"
    assert other.find(artifact.digest[:8]) == artifact.digest
    assert set(keys(s3)) == {
        "team/runs/keys/key",
        *(f"team/runs/objects/{artifact.digest}/{name}"
          for name in ("manifest.json", "files/documents.txt", "files/nested/index.bin")),
    }  # fmt: skip


def test_the_digest_does_not_depend_on_where_it_is_stored(s3, settings, commit, store):
    assert commit(open_store(settings)).digest == commit(store).digest


def test_a_large_file_goes_up_in_parts_and_comes_down_whole(s3, settings, commit, tmp_path):
    data = bytes(range(256)) * (40 << 12)  # 40 MiB, over the multipart threshold
    artifact = commit(open_store(settings), files={"weights.bin": data})
    assert "-" in s3.head_object(Bucket=BUCKET, Key=keys(s3)[0])["ETag"]
    assert (other_machine(settings, tmp_path).open(artifact.digest).path / "weights.bin").read_bytes() == data


def test_an_upload_without_a_manifest_does_not_exist(s3, settings, commit):
    store = open_store(settings)
    artifact = commit(store)
    s3.delete_object(Bucket=BUCKET, Key=f"team/runs/objects/{artifact.digest}/manifest.json")
    assert not store.exists(artifact.digest)
    assert list(store.list()) == []
    with pytest.raises(MissingArtifact):
        store.open(artifact.digest)


@pytest.mark.parametrize("problem", ["changed", "truncated", "missing"])
def test_damage_in_the_bucket_is_found_and_named(s3, settings, commit, tmp_path, problem, caplog):
    store = open_store(settings)
    artifact = commit(store)
    store.remember("key", artifact.digest)
    key = f"team/runs/objects/{artifact.digest}/files/documents.txt"
    if problem == "missing":
        s3.delete_object(Bucket=BUCKET, Key=key)
    else:
        s3.put_object(Bucket=BUCKET, Key=key, Body=b"one\nTwo\n" if problem == "changed" else b"one\n")
    other = other_machine(settings, tmp_path)
    with pytest.raises(CorruptArtifact, match=r"documents.txt"):
        other.open(artifact.digest)
    with pytest.raises(CorruptArtifact, match=r"documents.txt"):
        store.verify(artifact.digest)  # reads the bucket, not the good local copy
    if problem != "changed":  # sizes tell
        with caplog.at_level(logging.WARNING):
            assert other.recall("key") is None
        assert "documents.txt" in caplog.text


def test_a_damaged_local_copy_is_downloaded_again(s3, settings, commit):
    store = open_store(settings)
    artifact = commit(store)
    path = artifact.path / "documents.txt"
    path.chmod(0o644)
    path.write_bytes(b"one\nTwo\n")
    assert (open_store(settings).open(artifact.digest).path / "documents.txt").read_bytes() == b"one\ntwo\n"


def test_delete_and_gc(s3, settings, commit):
    store = open_store(settings)
    kept, dropped, deleted = (commit(store, seed=seed) for seed in range(3))
    store.remember("kept", kept.digest)
    store.remember("dropped", dropped.digest)
    store.delete(deleted.digest)
    assert store.gc({kept.digest}) == {dropped.digest}
    assert all(kept.digest in key or key.endswith("keys/kept") for key in keys(s3))
    assert store.recall("kept") == kept.digest


class Flaky(ThreadingHTTPServer):
    """A proxy that spoils the next ``trouble`` requests, then forwards everything."""

    daemon_threads = True

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), FlakyHandler)
        self.target = target.removeprefix("http://")
        self.trouble: list[str] = []
        self.spoiled = 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class FlakyHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Flaky

    def forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        trouble = self.server.trouble.pop(0) if self.server.trouble else ""
        self.server.spoiled += bool(trouble)
        if trouble == "reset":
            self.connection.close()
            self.close_connection = True
            return
        if trouble:
            self.reply(int(trouble), {}, b"")
            return
        upstream = http.client.HTTPConnection(self.server.target)
        upstream.request(self.command, self.path, body, dict(self.headers))
        response = upstream.getresponse()
        self.reply(response.status, dict(response.getheaders()), response.read())

    def reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("transfer-encoding", "connection", "content-length", "date", "server"):
                self.send_header(name, value)
        length = headers.get("Content-Length", str(len(body))) if self.command == "HEAD" else str(len(body))
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = forward

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def flaky(server) -> Iterator[Flaky]:
    proxy = Flaky(server)
    yield proxy
    proxy.shutdown()
    proxy.server_close()


def impatient(settings: Settings, url: str, tmp_path: Path, patience: float) -> ArtifactStore:
    client = s3_client(settings.model_copy(update={"s3_endpoint_url": url}))
    return ArtifactStore(S3Backend(client, settings.store_uri, LocalBackend(tmp_path / "cache"), patience=patience))


# boto3 itself tries 4 times: more than that reaches the retries around it.
@pytest.mark.parametrize("trouble", [["500"] * 5, ["503"] * 5, ["reset"] * 5], ids=lambda trouble: trouble[0])
def test_transient_errors_are_waited_out(s3, settings, commit, flaky, tmp_path, trouble):
    store = impatient(settings, flaky.url, tmp_path, patience=60)
    flaky.trouble = list(trouble)
    artifact = commit(store)
    assert flaky.spoiled == len(trouble)
    assert ArtifactStore(other_machine(settings, tmp_path).backend).verify(artifact.digest)


def test_an_outage_without_end_is_one_clear_line(s3, settings, commit, flaky, tmp_path):
    store = impatient(settings, flaky.url, tmp_path, patience=0.1)
    flaky.trouble = ["500"] * 1000
    with pytest.raises(InfraError, match=r"cannot .* s3://forge/team/runs/ after .*QWENFORGE_S3_ENDPOINT_URL"):
        commit(store)
    flaky.trouble = []
    assert list(store.list()) == []


def test_no_server_is_one_clear_line(settings, tmp_path):
    with pytest.raises(InfraError, match=r"cannot open in s3://forge/team/runs/ .*QWENFORGE_S3_ENDPOINT_URL"):
        impatient(settings, f"http://127.0.0.1:{free_port()}", tmp_path, patience=0.1)


def test_no_bucket_is_one_clear_line(settings):
    with pytest.raises(InfraError, match=r"NoSuchBucket; create the bucket"):
        open_store(settings.model_copy(update={"store_uri": "s3://nowhere"}))
