"""Guards of reinforcement learning: what they let pass, and what not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.preference.grpo import GRPOConfig
from components.preference.guards import (
    GuardConfig,
    Heldout,
    Signals,
    disagreement,
    judge_heldout,
    judge_rollouts,
    repeated_trigrams,
    signals_of,
)

CONFIG = GuardConfig(action="stop", window=2)


def rollouts(*, tokens=(10, 10), repetition=(0.0, 0.0), correct=(0.5, 0.5), entropy=1.0, kl=None, count=6):
    """``count`` rollouts of 32 queries, from the first to the last value of each."""

    def between(pair, step):
        return pair[0] + (pair[1] - pair[0]) * step / max(1, count - 1)

    rng = np.random.default_rng(0)
    return [
        Signals(
            correct=rng.binomial(8, between(correct, step), 32) / 8, reward=step, tokens=between(tokens, step),
            tokens_before=tokens[0], repetition=between(repetition, step), repetition_before=repetition[0],
            entropy=entropy, kl=kl,
        )
        for step in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("watched", "kind"),
    [
        ({"tokens": (10, 20)}, "length"),
        ({"tokens": (10, 20), "correct": (0.5, 0.2)}, "length"),
        ({"repetition": (0.1, 0.5)}, "repetition"),
    ],
)
def test_longer_and_more_repetitive_answers_trip_unless_more_of_them_verify(watched, kind):
    assert list(judge_rollouts(rollouts(**watched), CONFIG)) == [kind]
    assert judge_rollouts(rollouts(**watched | {"correct": (0.4, 0.9)}), CONFIG) == {}
    assert judge_rollouts(rollouts(**watched)[:2], CONFIG) == {}  # nothing to compare with


def test_a_policy_that_stays_as_it_is_trips_nothing():
    assert judge_rollouts(rollouts(), CONFIG) == {}
    assert judge_rollouts(rollouts(tokens=(10, 12), repetition=(0.3, 0.4), correct=(0.6, 0.3)), CONFIG) == {}


def test_entropy_and_kl_are_bounded_where_bounds_are_given():
    bounded = CONFIG.model_copy(update={"entropy_low": 0.2, "entropy_high": 3.0, "kl_limit": 0.5})
    for entropy, kl, kinds in ((1.0, 0.4, []), (0.1, 0.4, ["entropy"]), (4.0, None, ["entropy"]), (1.0, 0.6, ["kl"])):
        values = rollouts(entropy=entropy, kl=kl, count=1)
        assert list(judge_rollouts(values, bounded)) == kinds
        assert judge_rollouts(values, CONFIG) == {}


def test_a_learnt_reward_that_rises_while_verified_answers_fall_is_seen():
    rng = np.random.default_rng(0)
    first = Heldout(rng.binomial(1, 0.7, (60, 4)).astype(float), rng.normal(0, 1, (60, 4)))
    hacked = Heldout(rng.binomial(1, 0.3, (60, 4)).astype(float), rng.normal(1, 1, (60, 4)))
    assert "divergence" in judge_heldout(first, hacked, CONFIG, seed=0)
    assert judge_heldout(first, first, CONFIG, seed=0) == {}
    better = Heldout(np.minimum(1, first.correct + rng.binomial(1, 0.3, (60, 4))), first.scores + 1)
    assert judge_heldout(first, better, CONFIG, seed=0) == {}


def test_a_reward_model_that_comes_to_prefer_wrong_answers_is_seen():
    rng = np.random.default_rng(1)
    correct = rng.binomial(1, 0.5, (60, 4)).astype(float)
    noise = rng.normal(0, 1, (60, 4))
    sound, fooled = Heldout(correct, noise + correct), Heldout(correct, noise - correct)
    assert list(judge_heldout(sound, fooled, CONFIG, seed=0)) == ["disagreement"]
    assert judge_heldout(sound, sound, CONFIG, seed=0) == {}


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000))
def test_disagreement_counts_pairs_of_one_prompt(seed):
    rng = np.random.default_rng(seed)
    correct, scores = rng.binomial(1, 0.5, (5, 3)).astype(float), rng.integers(0, 3, (5, 3)).astype(float)
    wins = [
        0.5 if a == b else float(b > a)
        for verdicts, values in zip(correct, scores, strict=True)
        for a, right in zip(values, verdicts, strict=True)
        for b, other in zip(values, verdicts, strict=True)
        if right and not other
    ]
    assert disagreement(Heldout(correct, scores)) == (pytest.approx(np.mean(wins) if wins else 0.0), len(wins))


def test_signals_of_a_rollout():
    saved = {
        "answers": [
            {"tokens": [1, 2, 3, 1, 2, 3], "log_probs": [-1.0] * 6},
            {"tokens": [4, 5], "log_probs": [-3.0, -3.0]},
        ],
        "queries": ["a"], "correct": [1.0, 0.0], "rewards": [1.0, 0.5],
    }  # fmt: skip
    signals = signals_of(saved, 2, {"a": (3.0, 0.25), "b": (9.0, 0.75)})
    assert (signals.tokens_before, signals.repetition_before) == (3.0, 0.25)
    assert signals.correct.tolist() == [0.5] and signals.kl is None
    assert (signals.reward, signals.tokens, signals.entropy) == (0.75, 4.0, 1.5)
    assert signals.repetition == repeated_trigrams([1, 2, 3, 1, 2, 3]) / 2 == 0.125


def test_guards_that_are_off_are_no_part_of_a_configs_dump():
    assert "guards" not in GRPOConfig().model_dump(mode="json")
    config = GRPOConfig(guards=GuardConfig(action="stop"))
    assert GRPOConfig(**config.model_dump(mode="json")) == config
