"""Shards in a bucket give the batches of the same shards on disk, without being copied."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from components.data import locations, remote_tokens
from components.data.remote_tokens import RemoteTokens
from components.data.shard_reader import ShardReader

LENGTH = 31


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator:
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    locations.client.cache_clear()
    s3 = boto3.Session().client("s3")
    s3.create_bucket(Bucket="shards")
    yield s3
    server.stop()
    locations.client.cache_clear()


def write_shards(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    sizes = rng.integers(3, 90, 200)
    folder.mkdir()
    (folder / "validation").mkdir()
    rng.integers(1, 500, sizes.sum(), dtype=np.uint16).tofile(folder / "train.bin")
    np.save(folder / "train.offsets.npy", np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))
    rng.integers(1, 500, 40, dtype=np.uint16).tofile(folder / "validation" / "news.bin")
    np.save(folder / "validation" / "news.offsets.npy", np.array([0, 15, 40], dtype=np.int64))
    (folder / "shards.json").write_text(
        '{"vocab_size": 500, "dtype": "uint16", "eos_id": 0, "train": {"tokens": 1}, "validation": {"news": {}}}'
    )
    return folder


def test_batches_are_those_of_the_files_on_disk(tmp_path: Path, bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_tokens, "BLOCK", 1_000)  # documents that go over several blocks
    folder = write_shards(tmp_path / "shards")
    for file in folder.rglob("*.*"):
        bucket.upload_file(str(file), "shards", f"runs/1/{file.relative_to(folder).as_posix()}")
    here, there = ShardReader(folder), ShardReader("s3://shards/runs/1")
    for step in range(5):
        assert np.array_equal(there.batch(3, step, 8, LENGTH), here.batch(3, step, 8, LENGTH))
    assert [d.tolist() for d in there.validation["news"].documents()] == [
        d.tolist() for d in here.validation["news"].documents()
    ]


def test_only_the_blocks_that_are_asked_for_are_read(bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_tokens, "BLOCK", 64)
    numbers = np.arange(1_000, dtype=np.uint32)
    bucket.put_object(Bucket="shards", Key="t.bin", Body=numbers.tobytes())
    tokens = RemoteTokens("s3://shards/t.bin", "uint32")
    read = []
    original = tokens._read
    monkeypatch.setattr(tokens, "_block", lambda number: read.append(number) or original(number))
    assert len(tokens) == 1_000
    assert tokens[20:40].tolist() == list(range(20, 40))
    assert read == [1, 2]
    assert tokens[990:2_000].tolist() == list(range(990, 1_000))
    assert tokens[5:5].tolist() == []
