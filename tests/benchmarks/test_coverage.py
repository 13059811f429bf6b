"""The coverage benchmark: its populations have the truth that they claim, and it sees intervals that are too narrow."""

import numpy as np
import pytest

from benchmarks import coverage
from components.evaluation.statistics import Estimate, paired_difference


@pytest.mark.parametrize("population", coverage.POPULATIONS, ids=lambda population: population.name)
def test_populations_have_the_truth_that_they_claim(population: coverage.Population) -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(1_000):
        drawn = population.draw(rng, population.truth)
        total = len(drawn.scores) if drawn.weights is None else drawn.weights.sum()
        found.append((drawn.scores - drawn.baseline).sum() / total)
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found) - population.truth) < 4 * error + 1e-12


def test_narrow_intervals_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def narrow(*arguments, **options) -> Estimate:
        whole = paired_difference(*arguments, **options)
        half = (whole.high - whole.low) * 0.35
        return Estimate(whole.value, whole.value - half, whole.value + half, whole.n)

    population = coverage.POPULATIONS[0]
    assert coverage.measure(population, 200, 200)["coverage"] > 0.9
    monkeypatch.setattr(coverage, "paired_difference", narrow)
    row = coverage.measure(population, 200, 200)
    assert row["coverage"] < 0.9 and not row["met"]


def test_ignoring_clusters_shows() -> None:
    row = coverage.measure(coverage.POPULATIONS[-1], 80, 200)
    assert row["coverage without clusters"] < 0.75 < row["coverage"]
