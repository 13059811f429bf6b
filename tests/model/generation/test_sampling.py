"""The choice of a token against the processors of ``transformers``, and each row for itself."""

import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor, TopKLogitsWarper, TopPLogitsWarper

from model.generation.sampling import Penalty, Row, invert, sample

GRID = torch.linspace(0, 0.9999, 2000).double().tolist()


def logits_of(vocabulary: int, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(1, vocabulary, generator=torch.Generator().manual_seed(seed))


def penalty_of(prompt: list[int], answer: list[int], repetition=1.0, presence=0.0, frequency=0.0) -> Penalty:
    seen, answered = sorted({*prompt, *answer}), sorted(set(answer))
    counts = [answer.count(token) for token in answered]
    return Penalty(
        repetition, presence, frequency, seen=torch.tensor(seen), answered=torch.tensor(answered, dtype=torch.long),
        counts=torch.tensor(counts, dtype=torch.float32),
    )  # fmt: skip


@pytest.mark.parametrize("vocabulary", [50, 3000])
@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (7, 1.0), (0, 0.8), (0, 0.2), (9, 0.6), (60, 1.0)])
def test_draws_follow_the_warpers_of_transformers(vocabulary, top_k, top_p):
    """A grid of uniform numbers gives each token in proportion to what the warpers leave of it."""
    logits = logits_of(vocabulary)
    kept = logits / 0.7
    if top_k:
        kept = TopKLogitsWarper(min(top_k, vocabulary))(None, kept)
    if top_p < 1:
        kept = TopPLogitsWarper(top_p)(None, kept)
    expected = kept[0].softmax(-1)
    drawn = sample(logits.repeat(len(GRID), 1), [Row(0.7, top_p, top_k, uniform) for uniform in GRID])
    shares = torch.bincount(torch.tensor(drawn.tokens), minlength=vocabulary) / len(GRID)
    assert set(drawn.tokens) <= set(expected.nonzero().squeeze(-1).tolist())
    torch.testing.assert_close(shares, expected, atol=1.1 / len(GRID), rtol=0)


@pytest.mark.parametrize("vocabulary", [100, 513, 1000])
def test_inversion_in_two_levels_equals_one(vocabulary):
    weights = torch.rand(64, vocabulary, generator=torch.Generator().manual_seed(0))
    weights[weights < 0.3] = 0.0
    uniforms = torch.linspace(0, 1 - 1e-12, 64).double()
    cumulative = weights.double().cumsum(-1)
    chosen = invert(weights, uniforms)
    assert (weights.gather(-1, chosen[:, None]) > 0).all()
    before = cumulative.gather(-1, chosen[:, None]).squeeze(-1) - weights.gather(-1, chosen[:, None]).squeeze(-1)
    target = uniforms * cumulative[:, -1]
    slack = 1e-5 * vocabulary
    assert (before <= target + slack).all()
    assert (target <= cumulative.gather(-1, chosen[:, None]).squeeze(-1) + slack).all()


def test_top_p_keeps_the_fewest_tokens_that_hold_the_mass():
    logits = torch.tensor([[0.1, 0.5, 0.15, 0.25]]).log().repeat(len(GRID), 1)
    drawn = sample(logits, [Row(1.0, top_p=0.6, uniform=uniform) for uniform in GRID])
    assert set(drawn.tokens) == {1, 3}
    assert drawn.log_probs[0] == pytest.approx(torch.tensor(0.5).log().item())  # under the whole distribution


def test_repetition_penalty_equals_transformers():
    logits, prompt, answer = logits_of(40), [1, 5, 5], [7, 39]
    expected = RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor([prompt + answer]), logits.clone())
    penalty_of(prompt, answer, repetition=1.7).apply(logits[0])
    torch.testing.assert_close(logits, expected)


def test_presence_and_frequency_count_the_answer_alone():
    logits = torch.zeros(1, 10)
    penalty_of([1, 2], [3, 4, 4], presence=0.5, frequency=0.25).apply(logits[0])
    assert logits[0].tolist() == [0, 0, 0, -0.75, -1.0, 0, 0, 0, 0, 0]


def test_log_probs_are_the_models_own_under_penalty_and_grammar():
    logits = logits_of(30)
    allowed = torch.zeros(30, dtype=torch.bool)
    allowed[4] = True
    rows = [Row(0.8, uniform=0.3, allowed=allowed, penalty=penalty_of([4], [], repetition=3.0))]
    drawn = sample(logits.clone(), rows)
    assert drawn.tokens == [4]
    assert drawn.log_probs[0] == pytest.approx((logits[0] / 0.8).log_softmax(-1)[4].item(), rel=1e-5)


def test_rows_of_different_kinds_do_not_touch_each_other():
    """Each row gives together what it gives alone."""
    logits = logits_of(600).repeat(7, 1) + torch.arange(7)[:, None] * torch.linspace(0, 1, 600)
    allowed = torch.arange(600) % 7 == 0
    rows = [
        Row(), Row(0.7, uniform=0.2), Row(1.0, 0.5, uniform=0.9), Row(1.3, top_k=3, uniform=0.5, top_log_probs=2),
        Row(penalty=penalty_of([int(logits[4].argmax())], [], repetition=9.0)), Row(1.0, uniform=0.7, allowed=allowed),
        Row(0.7, uniform=0.6),
    ]  # fmt: skip
    together = sample(logits.clone(), rows)
    for index, row in enumerate(rows):
        alone = sample(logits[index : index + 1].clone(), [row])
        assert (alone.tokens[0], alone.log_probs[0], alone.top[0]) == (
            together.tokens[index], together.log_probs[index], together.top[index]
        )  # fmt: skip
    assert len(together.top[3]) == 2
    assert together.tokens[4] != int(logits[4].argmax())
    assert together.tokens[5] % 7 == 0


@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 1e-300}, {"temperature": 1e-5}, {"temperature": 2.0, "top_p": 1e-300},
        {"temperature": 1.0, "top_p": 1e-12}, {"temperature": 1.0, "top_k": 3, "top_p": 1e-300},
    ],
)  # fmt: skip
def test_extreme_settings_choose_the_likeliest_token(settings, equal):
    logits = torch.zeros(1, 312) if equal else torch.randn(1, 312, generator=torch.Generator().manual_seed(0)) * 3
    best = int(logits.argmax())
    (token,) = sample(logits, [Row(uniform=0.999999, **settings)]).tokens
    assert 0 <= token < 312
    assert equal or token == best


@pytest.mark.parametrize("repetition", [1e-300, 1e-30, 100.0])
def test_an_extreme_penalty_leaves_a_distribution(repetition):
    logits = torch.randn(1, 312, generator=torch.Generator().manual_seed(1))
    seen = torch.tensor([3, 7])
    penalty = Penalty(repetition, 0.0, 0.0, seen, seen, torch.ones(2))
    drawn = sample(logits, [Row(temperature=1.0, uniform=0.5, penalty=penalty)])
    assert 0 <= drawn.tokens[0] < 312 and drawn.log_probs[0] <= 0
