"""What decides a claim: signs, margins, seeds, and the interval of outcomes that never vary."""

import numpy as np
import pytest

from components.claims.claim import Claim, Contrast, Scores
from components.claims.verdict import CONTRADICTED, HOLDS, MISSING, OPEN, find, judge
from components.evaluation.statistics import paired_difference_over_seeds
from components.stage import StageConfig

RNG = np.random.default_rng(0)


def seeds(gap: float, spread: float = 0.05, items: int = 200) -> list[Scores]:
    """Three seeds whose treated side is ``gap`` above the other one."""
    base = RNG.random(items)
    return [Scores.of(base + gap + RNG.normal(0, spread, items), base) for _ in range(3)]


@pytest.mark.parametrize(
    ("gap", "contrast", "verdict"),
    [
        (0.2, Contrast("a"), HOLDS),
        (-0.2, Contrast("a"), CONTRADICTED),
        (0.0, Contrast("a"), OPEN),
        (-0.2, Contrast("a", better="lower"), HOLDS),
        (0.2, Contrast("a", better="lower"), CONTRADICTED),
        (-0.03, Contrast("a", margin=0.1), HOLDS),
        (-0.2, Contrast("a", margin=0.1), CONTRADICTED),
        (0.03, Contrast("a", better="lower", margin=0.1), HOLDS),
        (-0.1, Contrast("a", margin=0.1), OPEN),
    ],
)
def test_signs_and_margins(gap, contrast, verdict):
    assert find(contrast, seeds(gap)).verdict == verdict


def test_the_interval_is_the_one_over_seeds_and_items():
    found = find(Contrast("a"), scores := seeds(0.02))
    expected = paired_difference_over_seeds(
        np.array([s.treated for s in scores]), np.array([s.baseline for s in scores]), np.ones(200)
    )
    assert (found.difference, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high))
    assert np.mean(found.by_seed) == pytest.approx(found.difference)


def test_weights_are_denominators():
    one = Scores.of([2.0, 30.0], [4.0, 60.0], weights=[1.0, 10.0])
    found = find(Contrast("bits", "bits/byte", "lower"), [one, one])
    assert (found.treated, found.baseline, found.difference) == pytest.approx((32 / 11, 64 / 11, -32 / 11))


def test_outcomes_that_never_vary_still_have_an_interval():
    always = [Scores.of([1.0] * 12, [0.0] * 12)] * 3
    found = find(Contrast("keys"), always)
    assert found.difference == 1.0
    assert 0.5 < found.low < 0.95
    # Nor is equality of few items a proof that nothing is lost.
    assert find(Contrast("keys", margin=0.02), [Scores.of([1.0] * 12, [1.0] * 12)] * 3).verdict == OPEN


def test_seeds_must_measure_the_same_items():
    with pytest.raises(ValueError, match="same"):
        find(Contrast("a"), [Scores.of([1, 0], [0, 0]), Scores.of([1], [0])])


def claim(*contrasts: Contrast) -> Claim:
    return Claim("c", "f", "s", "1", "d", (), StageConfig(), lambda config, bench: {}, contrasts)


def test_all_contrasts_must_hold():
    good, bad, open_ = seeds(0.2), seeds(-0.2), seeds(0.0)
    two = claim(Contrast("a"), Contrast("b"))
    for second, verdict in ((good, HOLDS), (open_, OPEN), (bad, CONTRADICTED)):
        results = {seed: {"a": good[seed], "b": second[seed]} for seed in range(3)}
        assert judge(two, results)[0] == verdict


def test_one_seed_says_nothing():
    assert judge(claim(Contrast("a")), {0: {"a": seeds(0.2)[0]}}) == (MISSING, [])


def test_an_unknown_bound_is_none_in_json():
    found = find(Contrast("a"), [Scores.of([0.3], [0.1])] * 2)
    assert found.as_dict()["low"] is None
    assert found.verdict == OPEN
