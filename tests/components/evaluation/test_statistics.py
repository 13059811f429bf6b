"""Intervals cover the truth as often as they promise, and agree with scipy where scipy has them."""

import numpy as np
import pytest
from scipy import stats

from components.evaluation.statistics import (
    mean,
    paired_difference,
    paired_difference_over_seeds,
    proportion,
    wilson,
)


@pytest.mark.parametrize(("successes", "n"), [(0, 20), (1, 10), (47, 50), (20, 20), (500, 1000)])
def test_wilson_agrees_with_scipy(successes: int, n: int) -> None:
    expected = stats.binomtest(successes, n).proportion_ci(method="wilson")
    estimate = wilson(successes, n)
    assert (estimate.low, estimate.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert estimate.low <= estimate.value <= estimate.high


def test_bootstrap_agrees_with_the_normal_interval_on_many_items() -> None:
    scores = np.random.default_rng(1).normal(3, 2, 2_000)
    estimate = mean(scores)
    half = 1.96 * scores.std(ddof=1) / np.sqrt(len(scores))
    assert estimate.value == pytest.approx(scores.mean())
    assert (estimate.high - estimate.low) / 2 == pytest.approx(half, rel=0.08)


@pytest.mark.parametrize("n", [12, 60])
def test_coverage_of_the_mean(n: int) -> None:
    rng = np.random.default_rng(2)
    hits = 0
    for trial in range(400):
        estimate = mean(rng.normal(1, 1, n), seed=trial, resamples=600)
        hits += estimate.low <= 1 <= estimate.high
    assert 0.92 <= hits / 400 <= 0.98


def test_coverage_of_a_clustered_mean_where_ignoring_clusters_fails() -> None:
    rng = np.random.default_rng(3)
    clusters = np.repeat(np.arange(40), 8)
    clustered = ignored = 0
    for trial in range(300):
        scores = np.repeat(rng.normal(0, 1, 40), 8) + rng.normal(0, 0.3, 320)
        right = mean(scores, clusters=clusters, seed=trial, resamples=500)
        wrong = mean(scores, seed=trial, resamples=500)
        clustered += right.low <= 0 <= right.high
        ignored += wrong.low <= 0 <= wrong.high
        assert right.n == 40
    assert clustered / 300 > 0.92
    assert ignored / 300 < 0.7


def test_coverage_of_a_ratio_of_sums() -> None:
    rng = np.random.default_rng(4)
    hits = 0
    for trial in range(300):
        size = rng.integers(100, 5_000, 50).astype(float)
        bits = size * rng.normal(1.5, 0.3, 50)
        estimate = mean(bits, weights=size, seed=trial, resamples=500)
        assert estimate.value == pytest.approx(bits.sum() / size.sum())
        hits += estimate.low <= 1.5 <= estimate.high
    assert hits / 300 > 0.91


def test_pairing_finds_a_small_gain_that_unpaired_intervals_hide() -> None:
    rng = np.random.default_rng(5)
    difficulty = rng.normal(0, 1, 200)
    before = difficulty + rng.normal(0, 0.05, 200)
    after = difficulty + 0.05 + rng.normal(0, 0.05, 200)
    assert mean(after).low < mean(before).high
    difference = paired_difference(after, before)
    assert difference.excludes_zero and difference.value == pytest.approx(0.05, abs=0.02)


def test_false_alarms_of_the_paired_difference_are_rare() -> None:
    rng = np.random.default_rng(6)
    alarms = 0
    clusters = np.repeat(np.arange(60), 4)
    for trial in range(300):
        rate = np.repeat(rng.beta(1, 1, 60), 4)
        first, second = rng.random(240) < rate, rng.random(240) < rate
        alarms += paired_difference(first, second, clusters=clusters, seed=trial, resamples=500).excludes_zero
    assert alarms / 300 < 0.085


def test_unanimous_outcomes_keep_an_interval_of_their_clusters() -> None:
    estimate = proportion(np.ones(40), clusters=np.repeat(np.arange(10), 4))
    assert estimate == wilson(10, 10)


def test_same_seed_same_interval_and_empty_input_is_nan() -> None:
    scores = np.arange(30.0)
    assert mean(scores, seed=7) == mean(scores, seed=7)
    assert np.isnan(mean([]).value)
    with pytest.raises(ValueError, match="differ in shape"):
        paired_difference([1.0], [1.0, 2.0])


def test_unanimous_pairs_keep_an_interval() -> None:
    all_won = paired_difference(np.ones(50), np.zeros(50))
    assert all_won.value == 1 and all_won.high == 1 and 0.85 < all_won.low < 0.95
    tied = paired_difference(np.ones(50), np.ones(50))
    assert tied.low < 0 == tied.value < tied.high
    assert paired_difference(np.zeros(8), np.zeros(8), clusters=np.repeat([0, 1], 4)).n == 2


@pytest.mark.parametrize(("between_seeds", "least"), [(0.0, 0.93), (0.05, 0.93), (0.3, 0.93)])
def test_coverage_over_seeds(between_seeds: float, least: float) -> None:
    """Whatever dominates the spread, items or seeds, the interval holds the truth as often as it promises."""
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(400):
        weights = rng.uniform(50, 150, 60)
        gaps = -0.2 + rng.normal(0, 0.5, 60) + rng.normal(0, between_seeds, (3, 1)) + rng.normal(0, 0.1, (3, 60))
        base = rng.normal(2, 0.3, 60) + np.zeros((3, 1))
        estimate = paired_difference_over_seeds((base + gaps) * weights, base * weights, weights)
        hits += estimate.low <= -0.2 <= estimate.high
    assert hits / 400 >= least
