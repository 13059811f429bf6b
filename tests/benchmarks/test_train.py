"""The benchmark of the training loop, both sides at a tiny shape in this process."""

import pytest

from benchmarks import train
from benchmarks.harness import Measured
from components.training import engine, loop, recorder, telemetry, watch
from infra.tracking.operations import Operations

SHAPE = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 64,
}  # fmt: skip
TIMED = (
    (telemetry.Telemetry, "mark"), (engine.TorchEngine, "_measure"), (loop._Training, "_close_window"),
    (watch.Watch, "judge"), (recorder.FlightRecorder, "note"), (Operations, "perform"),
)  # fmt: skip


@pytest.fixture
def tiny(monkeypatch):
    for table, value in ((train.SHAPES, SHAPE), (train.BATCHES, (2, 16))):
        monkeypatch.setitem(table, "tiny", value)
    monkeypatch.setattr(engine.TorchEngine, "_copied", staticmethod(engine.TorchEngine._copied))
    for owner, name in TIMED:  # the benchmark puts clocks around them, which its processes take to their grave
        monkeypatch.setattr(owner, name, getattr(owner, name))


def test_both_sides_make_the_same_updates_and_all_parts_of_the_overhead_are_found(tiny, tmp_path):
    updates = 11
    weights = train._write_weights(tmp_path / "weights", "tiny")
    shards = train._write_shards(tmp_path / "shards", "tiny", updates)
    sides = {}
    for name, run in (("theirs", train.trainer_run), ("ours", train.our_run)):
        step = run(weights, shards, "tiny", updates, lambda: None)
        results = [step() for _ in range(updates)]
        sides[name] = Measured([0.5] * (updates - 1), results[0], results[-1], peak_bytes=300, idle_bytes=100)
    result = train._result(sides["theirs"], sides["ours"], "tiny")  # ends the benchmark where losses differ
    assert set(result["overhead_by_part"]) >= {"loader", "telemetry", "watch"}
    assert all(share > 0 for part, share in result["overhead_by_part"].items() if part != "MLflow's thread")
    assert result["overhead"] == pytest.approx(sum(result["overhead_by_part"].values()))
    assert (result["times"], result["memory_ratio"]) == (1.0, 1.0)


def test_other_losses_leave_nothing_to_compare(tiny):
    theirs = Measured([1.0], [], [2.0])
    ours = Measured([1.0], ([], {}), ([3.0] * train.LOG_EVERY, {}))
    with pytest.raises(SystemExit, match="nothing to compare"):
        train._result(theirs, ours, "tiny")
