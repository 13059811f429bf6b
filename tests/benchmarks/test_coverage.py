"""The coverage benchmark: its populations have the truth that they claim, and it sees intervals that are too narrow."""

import numpy as np
import pytest

from benchmarks import coverage
from components.evaluation.statistics import paired_difference


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


@pytest.mark.parametrize("population", coverage.POPULATIONS, ids=lambda population: population.name)
def test_intervals_are_those_of_the_paired_difference(population: coverage.Population) -> None:
    rng = np.random.default_rng(1)
    drawn = [population.draw(rng, population.truth) for _ in range(3)]
    low, high = coverage.intervals(drawn, resamples=300, seed=7)
    for number, one in enumerate(drawn):
        found = paired_difference(
            one.scores, one.baseline, weights=one.weights, clusters=one.clusters, seed=7, resamples=300
        )
        assert (low[number], high[number]) == pytest.approx((found.low, found.high), abs=1e-12)


def test_narrow_intervals_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = coverage.intervals

    def narrow(*arguments) -> tuple[np.ndarray, np.ndarray]:
        low, high = wide(*arguments)
        return low + 0.15 * (high - low), high - 0.15 * (high - low)

    population = coverage.POPULATIONS[0]
    assert coverage.measure(population, 200, 200)["coverage"] > 0.9
    monkeypatch.setattr(coverage, "intervals", narrow)
    row = coverage.measure(population, 200, 200)
    assert row["coverage"] < 0.9 and not row["met"]


def test_ignoring_clusters_shows() -> None:
    row = coverage.measure(coverage.POPULATIONS[-1], 100, 200)
    assert row["coverage without clusters"] < 0.75 < row["coverage"]


def test_ties_are_what_the_bootstrap_misses_and_compared_holds() -> None:
    population = coverage.SMALL[2]
    assert coverage.measure(population, 400, 200)["coverage"] < 0.8
    assert coverage.measure_compared(population, 400, 200) > 0.93
