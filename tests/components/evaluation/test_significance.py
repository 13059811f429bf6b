"""P-values against scipy's exact tests and known cases; corrections against their definitions and simulated tables."""

import numpy as np
import pytest
from scipy import stats

from components.evaluation.significance import adjusted, paired_p_value


def test_yes_or_no_outcomes_give_the_exact_mcnemar_test() -> None:
    """9 questions won, 2 lost, 30 tied: under the null each of the 11 is a fair coin."""
    after = np.array([1.0] * 9 + [0.0] * 2 + [1.0] * 30)
    before = np.array([0.0] * 9 + [1.0] * 2 + [1.0] * 30)
    assert paired_p_value(after, before) == pytest.approx(stats.binomtest(9, 11).pvalue)
    one_sided = stats.binomtest(9, 11, alternative="greater").pvalue
    assert paired_p_value(after, before, alternative="greater") == pytest.approx(one_sided)
    assert paired_p_value(before, after, alternative="less") == pytest.approx(one_sided)


def test_many_items_agree_with_the_t_test() -> None:
    rng = np.random.default_rng(1)
    before = rng.normal(0, 3, 300)
    after = before + rng.normal(0.12, 1, 300)
    assert paired_p_value(after, before) == pytest.approx(stats.ttest_rel(after, before).pvalue, abs=0.01)


def test_answers_to_one_prompt_count_as_one() -> None:
    """Eight copies of an item say no more than the item."""
    gaps = np.array([0.3, -0.1, 0.4, 0.2, 0.5, 0.1])
    alone = paired_p_value(gaps, np.zeros(6))
    copies = np.repeat(gaps, 8)
    assert paired_p_value(copies, np.zeros(48), clusters=np.repeat(np.arange(6), 8)) == alone
    assert paired_p_value(copies, np.zeros(48)) < alone / 10


@pytest.mark.parametrize(
    ("gaps", "alternative", "expected"),
    [([], "two-sided", 1.0), ([0.0, 0.0], "less", 1.0), ([-1.0], "two-sided", 1.0), ([-1.0], "less", 0.5),
     ([1.0], "less", 1.0), ([1.0], "greater", 0.5), ([0.0, -1.0], "less", 0.5)],
)  # fmt: skip
def test_where_there_is_hardly_anything_to_flip(gaps: list[float], alternative: str, expected: float) -> None:
    assert paired_p_value(gaps, np.zeros(len(gaps)), alternative=alternative) == expected


def test_alike_checkpoints_are_told_apart_as_often_as_alpha_says() -> None:
    rng = np.random.default_rng(2)
    alarms = 0
    for _ in range(300):
        rate = rng.random(60)
        alarms += paired_p_value(rng.random(60) < rate, rng.random(60) < rate) <= 0.05
    assert alarms / 300 < 0.08


def test_known_adjustments() -> None:
    """R's p.adjust of the same values."""
    values = [0.01, 0.04, 0.03, 0.005]
    assert adjusted(values, "holm") == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert adjusted(values, "benjamini-hochberg") == pytest.approx([0.02, 0.04, 0.04, 0.02])
    assert adjusted([0.9, 0.8], "holm") == [1.0, 1.0]
    assert adjusted([], "holm") == [] == adjusted([], "benjamini-hochberg")
    with pytest.raises(ValueError, match="lie in"):
        adjusted([0.5, 1.5])


def test_a_table_of_nothing_raises_no_more_alarms_than_promised() -> None:
    """20 comparisons with nothing in them: unadjusted, two tables in three hold an alarm; adjusted, one in twenty."""
    tables = np.random.default_rng(3).random((2_000, 20))
    assert (tables.min(axis=1) <= 0.05).mean() > 0.6
    for control in ("holm", "benjamini-hochberg"):
        assert np.mean([min(adjusted(list(table), control)) <= 0.05 for table in tables]) < 0.065


def test_the_share_of_false_alarms_is_bounded_and_more_is_found_than_with_holm() -> None:
    rng = np.random.default_rng(4)
    false, found = [], {"holm": 0, "benjamini-hochberg": 0}
    for _ in range(500):
        z = rng.normal(0, 1, 40) + np.where(np.arange(40) < 10, 3.0, 0.0)  # the first ten differ
        values = list(2 * stats.norm.sf(np.abs(z)))
        for control in found:
            alarms = np.array(adjusted(values, control)) <= 0.05
            found[control] += alarms[:10].sum()
            if control == "benjamini-hochberg":
                false.append(alarms[10:].sum() / max(1, alarms.sum()))
    assert np.mean(false) < 0.05
    assert found["benjamini-hochberg"] > 1.2 * found["holm"]
