"""Weighted streams: shares are exact, epochs are each shards' own, and any step can be asked for at once."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from components.data.mixed_reader import BLOCK, MixedReader
from components.data.shard_reader import ShardReader

LENGTH = 7


def make_shards(folder: Path, first: int, windows: int, vocab_size: int = 1_000) -> ShardReader:
    """Documents of LENGTH + 1 tokens, each of one number of its own from ``first`` on."""
    (folder / "validation").mkdir(parents=True)
    rows = np.repeat(np.arange(first, first + windows, dtype=np.uint16), LENGTH + 1)
    rows.tofile(folder / "train.bin")
    np.save(folder / "train.offsets.npy", np.arange(windows + 1, dtype=np.int64) * (LENGTH + 1))
    facts = {"tokens": len(rows), "documents": windows, "bytes": len(rows)}
    (folder / "shards.json").write_text(
        f'{{"vocab_size": {vocab_size}, "dtype": "uint16", "eos_id": 0, "train": {facts}, "validation": {{}}}}'.replace(
            "'", '"'
        )
    )
    return ShardReader(folder)


@pytest.fixture
def readers(tmp_path: Path) -> list[ShardReader]:
    return [
        make_shards(tmp_path / "a", 1, 50),
        make_shards(tmp_path / "b", 100, 7),
        make_shards(tmp_path / "c", 500, 3),
    ]


def stream(reader: MixedReader, steps: range, batch_size: int = 64, seed: int = 0) -> np.ndarray:
    return np.concatenate([reader.batch(seed, step, batch_size, LENGTH)[:, 0] for step in steps])


def test_shares_are_those_of_the_weights(readers: list[ShardReader]) -> None:
    found = stream(MixedReader(readers, [6, 3, 1]), range(2 * BLOCK // 64))
    counts = [int((found < 100).sum()), int(((found >= 100) & (found < 500)).sum()), int((found >= 500).sum())]
    assert sum(counts) == 2 * BLOCK
    assert np.abs(np.array(counts) - 2 * BLOCK * np.array([0.6, 0.3, 0.1])).max() <= 1


def test_each_shards_is_read_epoch_by_epoch(readers: list[ShardReader]) -> None:
    found = stream(MixedReader(readers, [6, 3, 1]), range(BLOCK // 64))
    second = [number for number in found.tolist() if 100 <= number < 500]
    for start in range(0, len(second) - 7, 7):
        assert sorted(second[start : start + 7]) == list(range(100, 107))
    first = Counter(number for number in found.tolist() if number < 100)
    assert max(first.values()) - min(first.values()) <= 1


def test_a_batch_depends_on_its_step_alone(readers: list[ShardReader]) -> None:
    reader = MixedReader(readers, [1, 1, 1])
    rows = stream(reader, range(40))
    again = MixedReader(readers, [1, 1, 1])
    assert again.batch(0, 33, 64, LENGTH)[:, 0].tolist() == rows[33 * 64 : 34 * 64].tolist()
    assert again.batch(0, 66, 32, LENGTH)[:, 0].tolist() == rows[66 * 32 : 67 * 32].tolist()
    assert stream(again, range(3), seed=1).tolist() != rows[: 3 * 64].tolist()


def test_weights_and_vocabularies_are_checked(readers: list[ShardReader], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a weight of at least 0 for each of 3"):
        MixedReader(readers, [1, 2])
    with pytest.raises(ValueError, match="different vocabularies"):
        MixedReader([readers[0], make_shards(tmp_path / "other", 1, 5, vocab_size=2_000)], [1, 1])
