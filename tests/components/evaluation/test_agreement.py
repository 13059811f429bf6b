"""Cohen's kappa against the formula, written out."""

import pytest

from components.evaluation.agreement import cohens_kappa


def test_kappa_is_agreement_beyond_chance():
    # The textbook table (Cohen 1960's form): both yes 20, first only 5, second only 10, both no 15.
    first = ["a"] * 20 + ["a"] * 5 + ["b"] * 10 + ["b"] * 15
    second = ["a"] * 20 + ["b"] * 5 + ["a"] * 10 + ["b"] * 15
    found = cohens_kappa(dict(enumerate(first)), dict(enumerate(second)))
    chance = 0.5 * 0.6 + 0.5 * 0.4
    assert (found.n, found.agreement) == (50, 0.7)
    assert found.kappa == pytest.approx((0.7 - chance) / (1 - chance))


def test_only_items_that_both_have_judged_count():
    found = cohens_kappa({"1": "a", "2": "b", "3": "a"}, {"2": "b", "3": "b", "4": "a"})
    assert (found.n, found.agreement) == (2, 0.5)


def test_where_nothing_can_be_said_nothing_is_said():
    assert cohens_kappa({"1": "a"}, {"2": "a"}).kappa is None
    assert cohens_kappa({"1": "a", "2": "a"}, {"1": "a", "2": "a"}).kappa is None
