"""One score from several, and its calibration, against scikit-learn and brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss

from components.preference.combination import calibration, fit_combination, fit_temperature


def drawn(weights, pairs=4_000, seed=0):
    """Margins (pairs, criteria) whose better answers win as a Bradley-Terry model with ``weights`` has it."""
    rng = np.random.default_rng(seed)
    margins = rng.normal(size=(pairs, len(weights)))
    wins = rng.random(pairs) < 1 / (1 + np.exp(-margins @ weights))
    return np.where(wins[:, None], margins, -margins)


def test_weights_are_those_of_a_logistic_regression():
    margins = drawn([0.5, 2.0, 0.0, 1.0])
    # scikit-learn wants two classes: every pair is shown in both orders
    both, labels = np.concatenate([margins, -margins]), np.repeat([1, 0], len(margins))
    l2 = 1e-3
    peer = LogisticRegression(C=1 / (4 * l2 * len(margins)), fit_intercept=False, tol=1e-10).fit(both, labels)
    found = fit_combination(margins, l2)
    assert found == pytest.approx(np.maximum(peer.coef_[0], 0), abs=0.02)
    assert found == pytest.approx([0.5, 2.0, 0.0, 1.0], abs=0.2)


def test_no_criterion_counts_against_an_answer():
    found = fit_combination(drawn([1.0, -1.0]))
    assert found[1] == 0 and found[0] > 0.5


@pytest.mark.parametrize("temperature", [0.25, 1.0, 4.0])
def test_the_temperature_that_margins_were_scaled_by_is_found(temperature):
    assert fit_temperature(temperature * drawn([1.0])[:, 0]) == pytest.approx(temperature, rel=0.1)


def test_pairs_that_are_all_in_order_ask_for_no_certainty():
    equal = np.ones(98)
    assert 1 / (1 + np.exp(-1 / fit_temperature(equal))) == pytest.approx(99 / 100, abs=1e-4)


def test_calibration_of_a_true_model_is_good_and_of_a_boastful_one_is_not():
    margins = drawn([2.0], pairs=20_000)[:, 0] * 2.0
    assert calibration(margins).error < 0.02
    assert calibration(5 * margins).error > 0.05


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-20, 20), min_size=1, max_size=40))
def test_calibration_equals_its_definition(margins):
    found = calibration(margins)
    error = 0.0
    confidences = [1 / (1 + np.exp(-abs(m))) for m in margins]
    for low in range(10):
        inside = [i for i, c in enumerate(confidences) if min(int((c - 0.5) * 20), 9) == low]
        if inside:
            right = np.mean([1.0 if margins[i] > 0 else 0.5 if margins[i] == 0 else 0.0 for i in inside])
            error += len(inside) / len(margins) * abs(right - np.mean([confidences[i] for i in inside]))
    assert found.error == pytest.approx(error)
    assert sum(count for *_, count in found.bins) == len(margins)
    chosen = 1 / (1 + np.exp(-np.array(margins)))
    assert found.brier == pytest.approx(brier_score_loss([1] * len(margins), chosen, pos_label=1))
    assert found.log_loss == pytest.approx(log_loss([1] * len(margins), chosen, labels=[0, 1]), rel=1e-5, abs=1e-6)
