"""Intervals for few items and many ties: published values, likelihoods by brute force, coverage by simulation."""

import numpy as np
import pytest
from scipy import optimize, stats

from components.evaluation.small_samples import compared, studentised, tango
from components.evaluation.statistics import mean, paired_difference


def test_tango_on_a_published_table() -> None:
    """Airway hyper-responsiveness before and after, 21 children: 1 and 7 discordant (Fagerland, Lydersen and Laake
    2014, Statistics in Medicine 33, table IX: -0.517 to -0.026)."""
    found = tango(1, 7, 21)
    assert (round(found.low, 3), round(found.high, 3)) == (-0.517, -0.026)


@pytest.mark.parametrize(("gained", "lost", "n"), [(3, 0, 40), (5, 2, 30), (1, 1, 12), (9, 4, 15), (20, 0, 20)])
def test_tango_is_what_a_score_test_does_not_reject(gained: int, lost: int, n: int) -> None:
    """At each limit the statistic, with the likeliest share of losses found by search, is the normal quantile."""
    found, z = tango(gained, lost, n), stats.norm.ppf(0.975)
    for bound in (found.low, found.high):
        if abs(bound) == 1:
            continue

        def unlikely(share: float, bound: float = bound) -> float:
            cells = np.array([share + bound, share, 1 - 2 * share - bound])
            counts = np.array([gained, lost, n - gained - lost])
            return -float((counts[counts > 0] * np.log(np.maximum(cells, 1e-300))[counts > 0]).sum())

        share = optimize.minimize_scalar(
            unlikely, bounds=(max(0.0, -bound), (1 - bound) / 2), method="bounded", options={"xatol": 1e-12}
        ).x
        statistic = (gained - lost - n * bound) / np.sqrt(n * (2 * share + bound - bound**2))
        assert abs(statistic) == pytest.approx(z, rel=1e-3)


def test_tango_without_a_difference_has_a_width_and_is_symmetric() -> None:
    z2 = stats.norm.ppf(0.975) ** 2
    none = tango(0, 0, 30)
    assert (none.low, none.high) == pytest.approx((-z2 / (30 + z2), z2 / (30 + z2)))
    one, other = tango(5, 1, 25), tango(1, 5, 25)
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))
    assert tango(12, 0, 12).high == 1.0 and tango(0, 12, 12).low == -1.0
    with pytest.raises(ValueError, match="4 gained and 8 lost of 10"):
        tango(4, 8, 10)


def test_studentised_agrees_with_t_where_t_is_right_and_reaches_further_into_a_tail() -> None:
    rng = np.random.default_rng(0)
    plain = rng.normal(1, 2, 400)
    found = studentised(plain, np.ones(400), resamples=20_000)
    low, high = stats.t.interval(0.95, 399, plain.mean(), stats.sem(plain))
    assert (found.value, found.n) == (pytest.approx(plain.mean()), 400)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.015)
    skewed = rng.exponential(1, 30)
    ours, theirs = studentised(skewed, np.ones(30)), mean(skewed)
    assert ours.high > theirs.high and ours.low > theirs.low


def test_compared_picks_what_suits() -> None:
    rng = np.random.default_rng(1)
    first, second = (rng.random(50) < 0.5).astype(float), (rng.random(50) < 0.5).astype(float)
    gained, lost = int((first > second).sum()), int((first < second).sum())
    assert compared(first, second) == tango(gained, lost, 50)
    rewards = rng.normal(0, 1, 50)
    assert compared(rewards, first, seed=3) == studentised(rewards - first, np.ones(50), seed=3)
    graded = np.round(first * rng.choice([0.5, 1.0], 50), 1)
    assert compared(graded, second, seed=3) == paired_difference(graded, second, seed=3)
    clustered = compared(first, second, clusters=np.repeat(np.arange(25), 2))
    assert clustered == paired_difference(first, second, clusters=np.repeat(np.arange(25), 2))
    with pytest.raises(ValueError, match="differ in shape"):
        compared([1.0], [1.0, 0.0])
