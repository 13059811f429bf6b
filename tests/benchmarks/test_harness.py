"""Trainers that are made to take turns."""

import pytest
import torch

from benchmarks.harness import Pace


def test_a_trainer_makes_one_update_a_step():
    made, threads = [], []

    def train(pace):
        for update in range(3):
            threads.append(torch.get_num_threads())
            made.append(update)
            pace.wait()

    pace = Pace(train)
    assert made == []
    for count in (1, 2, 3):
        pace.step()
        assert made == list(range(count))
    assert set(threads) == {torch.get_num_threads()}
    with pytest.raises(RuntimeError, match="too few updates"):
        pace.step()


def test_a_trainers_error_ends_the_step():
    def train(pace):
        pace.wait()
        raise ValueError("broken")

    pace = Pace(train)
    pace.step()
    with pytest.raises(ValueError, match="broken"):
        pace.step()
