"""The fits find planted laws again, and say what a small sweep leaves open."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.scaling.law import ScalingLaw, SweepPoint, fit_scaling_law


def planted_loss(n: float, d: float) -> float:
    return 1.7 + 400 / n**0.34 + 1_500 / d**0.36


def planted_rate(n: float, d: float) -> float:
    return 1.79 * n**-0.6 * d**0.25


def planted_batch(d: float) -> float:
    return 0.58 * d**0.55


def sweep(
    sizes: list[float],
    budgets: list[float],
    rates: int = 5,
    batches: int = 3,
    noise: float = 0.0,
    seed: int = 0,
) -> list[SweepPoint]:
    """Runs on a grid around the planted optimum, shifted off it; loss is a parabola in log space."""
    rng = np.random.default_rng(seed)
    points = []
    for n in sizes:
        for d in budgets:
            for i in range(rates):
                for j in range(batches):
                    off_rate = (i - (rates - 1) / 2) * math.log(2) + 0.15
                    off_batch = (j - (batches - 1) / 2) * math.log(2) - 0.1
                    loss = planted_loss(n, d) * (1 + 0.01 * off_rate**2 + 0.004 * off_batch**2)
                    points.append(
                        SweepPoint(
                            parameters=int(n),
                            tokens=int(d),
                            learning_rate=planted_rate(n, d) * math.exp(off_rate),
                            batch_tokens=round(planted_batch(d) * math.exp(off_batch)),
                            loss=loss * math.exp(noise * rng.normal()),
                        )
                    )
    return points


SIZES = [4.4e7, 1.5e8, 6e8, 2.5e9]
BUDGETS = [8e8, 4e9, 2e10, 1e11]


def test_a_clean_sweep_gives_the_planted_laws_back() -> None:
    law = fit_scaling_law(sweep(SIZES, BUDGETS), resamples=20)
    assert law.warnings == ()
    assert law.learning_rate.exponent_parameters == pytest.approx(-0.6, abs=0.01)
    assert law.learning_rate.exponent_tokens == pytest.approx(0.25, abs=0.01)
    assert law.batch_tokens.exponent_tokens == pytest.approx(0.55, abs=0.01)
    assert law.loss.parameters_exponent == pytest.approx(0.34, abs=0.02)
    assert law.loss.tokens_exponent == pytest.approx(0.36, abs=0.02)
    assert law.loss.irreducible == pytest.approx(1.7, abs=0.03)


def test_noise_moves_predictions_little_and_intervals_hold_the_truth() -> None:
    law = fit_scaling_law(sweep(SIZES, BUDGETS, noise=0.001), resamples=60)
    n, d = 7e9, 3e11  # beyond the sweep
    assert law.predict_learning_rate(n, d) == pytest.approx(planted_rate(n, d), rel=0.25)
    assert law.predict_batch_tokens(n, d) == pytest.approx(planted_batch(d), rel=0.35)
    assert law.predict_loss(n, d) == pytest.approx(planted_loss(n, d), rel=0.02)
    low, high = law.learning_rate.exponent_parameters_interval
    assert low - 0.02 <= -0.6 <= high + 0.02
    assert law.extrapolation(n, d) == pytest.approx((2.8, 3.0))


def test_one_wild_run_does_not_take_the_law_along() -> None:
    points = sweep(SIZES, BUDGETS, batches=1)
    wild = [p.model_copy(update={"loss": p.loss * 0.9}) if k == 4 else p for k, p in enumerate(points)]
    law = fit_scaling_law(wild, resamples=0)
    assert law.learning_rate.exponent_parameters == pytest.approx(-0.6, abs=0.05)
    assert law.predict_loss(6e8, 2e10) == pytest.approx(planted_loss(6e8, 2e10), rel=0.01)


def test_a_pocket_sweep_is_stable_and_says_what_is_published() -> None:
    sizes, budgets = [2e5, 8e5, 3e6], [3e5, 1.2e6]
    law = fit_scaling_law(sweep(sizes, budgets, rates=3, batches=2, noise=0.003), resamples=20)
    n, d = 3e6, 3e6
    assert law.predict_learning_rate(n, d) == pytest.approx(planted_rate(n, d), rel=0.5)
    assert 0.3 < law.predict_batch_tokens(n, d) / planted_batch(d) < 3
    assert law.predict_loss(n, d) == pytest.approx(planted_loss(n, d), rel=0.1)
    assert any("batch size" in warning and "edge" in warning for warning in law.warnings)
    assert any("beta" in warning for warning in law.warnings)
    assert law.loss.tokens_exponent == 0.3658


def test_one_cell_still_predicts_through_published_exponents() -> None:
    law = fit_scaling_law(sweep([1e6], [1e7]), resamples=5)
    assert law.predict_learning_rate(1e6, 1e7) == pytest.approx(planted_rate(1e6, 1e7), rel=0.05)
    assert law.predict_loss(1e6, 1e7) == pytest.approx(planted_loss(1e6, 1e7), rel=0.01)
    assert law.learning_rate.fitted == ()
    assert law.loss.fitted == ()
    assert len(law.warnings) == 3


def test_diverged_runs_are_left_out_and_an_empty_sweep_is_refused() -> None:
    points = sweep([1e6, 4e6], [1e7])
    law = fit_scaling_law([*points, points[0].model_copy(update={"loss": math.inf})], resamples=0)
    assert "1 runs diverged and were left out" in law.warnings
    with pytest.raises(ValueError, match="no run with a finite loss"):
        fit_scaling_law([])


def test_the_same_seed_gives_the_same_bytes_and_json_reads_back(tmp_path: Path) -> None:
    points = sweep([1e6, 4e6, 2e7], [1e7, 4e7], noise=0.002)
    law = fit_scaling_law(points, seed=3, resamples=10)
    assert fit_scaling_law(points, seed=3, resamples=10) == law
    law.write(tmp_path / "law.json")
    assert ScalingLaw.read(tmp_path / "law.json") == law


@settings(max_examples=15, deadline=None)
@given(
    sizes=st.lists(st.sampled_from([1e5, 5e5, 2e6, 1e7]), min_size=1, max_size=3, unique=True),
    budgets=st.lists(st.sampled_from([1e6, 4e6, 2e7]), min_size=1, max_size=2, unique=True),
    rates=st.integers(1, 4),
    batches=st.integers(1, 3),
    noise=st.sampled_from([0.0, 0.01, 0.05]),
    seed=st.integers(0, 100),
)
def test_any_sweep_gives_finite_positive_predictions_near_what_it_saw(
    sizes: list[float], budgets: list[float], rates: int, batches: int, noise: float, seed: int
) -> None:
    points = sweep(sizes, budgets, rates, batches, noise, seed)
    law = fit_scaling_law(points, resamples=2)
    seen = [p.learning_rate for p in points]
    for n in sizes:
        for d in budgets:
            assert min(seen) / 5 < law.predict_learning_rate(n, d) < max(seen) * 5
            assert law.predict_batch_tokens(n, d) > 0
            assert law.predict_loss(n, d) == pytest.approx(planted_loss(n, d), rel=0.3)
