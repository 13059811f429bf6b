"""The sweep on tiny shards: resumable, deterministic, and better than untuned settings."""

import pytest
from pretraining import tiny_inputs
from support import make_run

from components.scaling.law import ScalingLaw, SweepPoint
from components.scaling.sweep import ScalingConfig, SweepShape, sweep
from components.scaling.trials import edges

SHAPE = SweepShape(
    hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1
)
CONFIG = ScalingConfig(
    shapes=(SHAPE, SHAPE.model_copy(update={"num_hidden_layers": 2})), tokens=(2048, 6144), sequence_length=32,
    learning_rates=(3e-3, 1e-2, 3e-2), batch_tokens=(64, 128), check_tokens=8192, default_batch_tokens=1024,
)  # fmt: skip


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return tiny_inputs(tmp_path_factory.mktemp("inputs"))


def test_the_law_beats_defaults_and_a_second_start_repeats_nothing(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr("components.data.pool.available_workers", lambda: 1)  # in this process: quick, and countable
    run = make_run(tmp_path)
    summary = sweep(CONFIG, inputs, run)
    law = (run.output / "law.json").read_bytes()
    points = ScalingLaw.read(run.output / "law.json").points
    assert len(points) >= 24 + 3
    assert {point.tokens for point in points} == {2048, 6144, 8192}
    tuned = summary["effects"][0]
    assert tuned["value"] < tuned["baseline"]

    (run.output / "law.json").unlink()
    monkeypatch.setattr("components.training.loop.train", lambda *_, **__: pytest.fail("a finished run was repeated"))
    assert sweep(CONFIG, inputs, run) == summary
    assert (run.output / "law.json").read_bytes() == law


@pytest.mark.parametrize(
    ("losses", "beyond"), [([3.0, 2.0, 2.5], []), ([3.0, 2.5, 2.0], [0.27]), ([2.0, 2.5, 3.0], [0.01 / 3])]
)
def test_the_next_rate_is_tried_where_the_best_is_the_last(losses, beyond):
    """Of the batch size that does best; a row that did worse may end where it likes."""
    rates = (0.01, 0.03, 0.09)
    best, worse = (
        [
            SweepPoint(parameters=100, tokens=1000, learning_rate=rate, batch_tokens=batch, loss=loss + above)
            for rate, loss in zip(rates, losses, strict=True)
        ]
        for batch, above in ((64, 0.0), (128, 1.0))
    )
    found = edges([*best, *worse])
    assert [rate for _, rate in found] == pytest.approx(beyond)
    assert all(point.batch_tokens == 64 and point.loss == 2.0 for point, _ in found)
