"""The learning rate over the steps of a run."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.training.config import TrainingConfig
from components.training.schedule import learning_rate_at


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
def test_ends_at_the_floor(schedule):
    config = TrainingConfig(learning_rate=1e-2, final_learning_rate_ratio=0.1, schedule=schedule)
    assert learning_rate_at(999, 1000, config) == pytest.approx(1e-3)


def test_warms_up_linearly_to_the_peak():
    config = TrainingConfig(learning_rate=1.0, warmup_ratio=0.1, schedule="constant")
    rates = [learning_rate_at(step, 100, config) for step in range(10)]
    assert rates == pytest.approx([0.1 * (step + 1) for step in range(10)])


def test_cosine_is_half_way_down_in_the_middle():
    config = TrainingConfig(learning_rate=1.0, warmup_ratio=0.0, final_learning_rate_ratio=0.0, schedule="cosine")
    assert learning_rate_at(50, 100, config) == pytest.approx(0.5, abs=0.01)


def test_wsd_holds_the_peak_until_the_decay():
    config = TrainingConfig(learning_rate=1.0, warmup_ratio=0.0, decay_ratio=0.2, schedule="wsd")
    assert learning_rate_at(79, 100, config) == 1.0
    assert learning_rate_at(85, 100, config) < 1.0


@given(
    steps=st.integers(1, 500),
    schedule=st.sampled_from(["cosine", "constant", "wsd"]),
    warmup=st.floats(0, 1),
    floor=st.floats(0, 1),
    decay=st.floats(0.01, 1),
)
def test_stays_between_zero_and_the_peak(steps, schedule, warmup, floor, decay):
    config = TrainingConfig(
        learning_rate=2.0, schedule=schedule, warmup_ratio=warmup, final_learning_rate_ratio=floor, decay_ratio=decay
    )
    rates = [learning_rate_at(step, steps, config) for step in range(steps)]
    assert all(0.0 <= rate <= 2.0 for rate in rates)
    assert max(rates) > 0.0
