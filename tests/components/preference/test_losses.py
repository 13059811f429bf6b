"""The losses against TRL's own code on the same tensors, and the algebra that they must obey."""

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.preference.losses import (
    bradley_terry_loss,
    clipped_policy_loss,
    dpo_loss,
    group_advantages,
    reduce_tokens,
)


class AloneAccelerator:
    """What TRL asks of an accelerator, in one process."""

    device = torch.device("cpu")
    num_processes = 1

    def gather(self, value):
        return value

    gather_for_metrics = gather

    def reduce(self, value, reduction):
        return value


def random_tensor(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_dpo_equals_trl():
    trainer = pytest.importorskip("trl").DPOTrainer
    pairs, tokens = 3, 5
    log_probs = random_tensor(2 * pairs, tokens, seed=1)
    reference = random_tensor(2 * pairs, tokens, seed=2)
    ones = torch.ones(2 * pairs, tokens + 1, dtype=torch.long)
    outputs = SimpleNamespace(
        log_probs=log_probs, entropy=torch.zeros_like(log_probs), mean_logits=torch.zeros_like(log_probs),
        is_top1=torch.zeros_like(log_probs, dtype=torch.bool),
    )  # fmt: skip
    theirs = SimpleNamespace(
        model=SimpleNamespace(training=True), accelerator=AloneAccelerator(), aux_loss_enabled=False, ld_alpha=None,
        precompute_ref_logps=True, f_divergence_type="reverse_kl", loss_types=["sigmoid"], loss_weights=[1.0],
        beta=0.3, use_weighting=False, _metrics=defaultdict(lambda: defaultdict(list)), _total_train_tokens=0,
        _tp_size=1,
    )  # fmt: skip
    chosen, rejected = log_probs.sum(1).chunk(2)
    reference_chosen, reference_rejected = reference.sum(1).chunk(2)
    inputs = {
        "input_ids": ones, "attention_mask": ones, "completion_mask": ones,
        "ref_chosen_logps": reference_chosen, "ref_rejected_logps": reference_rejected,
    }  # fmt: skip
    expected = trainer._compute_loss(theirs, lambda **_: outputs, inputs, False)
    ours = dpo_loss(chosen, rejected, reference_chosen, reference_rejected, beta=0.3)
    torch.testing.assert_close(ours.loss.mean(), expected)
    margins = theirs._metrics["train"]["rewards/margins"][0]
    assert (ours.chosen_reward - ours.rejected_reward).mean().item() == pytest.approx(margins, rel=1e-5)


@pytest.mark.parametrize("kind", ["grpo", "bnpo"])
@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_policy_loss_equals_trl(kind, beta):
    trainer = pytest.importorskip("trl").GRPOTrainer
    log_probs = random_tensor(4, 6, seed=1) * 0.3
    old, reference = random_tensor(4, 6, seed=2) * 0.3, random_tensor(4, 6, seed=3) * 0.3
    advantages = random_tensor(4, seed=4)
    lengths = torch.tensor([6, 3, 5, 1])
    mask = (torch.arange(6) < lengths[:, None]).long()
    theirs = SimpleNamespace(
        model=SimpleNamespace(training=False), accelerator=AloneAccelerator(), aux_loss_enabled=False,
        top_entropy_quantile=1.0, off_policy_mask_threshold=None, importance_sampling_level="token", beta=beta,
        args=SimpleNamespace(use_bias_correction_kl=False, delta=None), loss_type=kind, epsilon_low=0.2,
        epsilon_high=0.28, use_vllm=False, _entropy_bonus_enabled=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _get_per_token_logps_and_entropies=lambda *_, **__: (log_probs, torch.zeros_like(log_probs), None),
    )  # fmt: skip
    ids = torch.zeros(4, 6, dtype=torch.long)
    inputs = {
        "prompt_ids": ids, "prompt_mask": ids, "completion_ids": ids, "completion_mask": mask,
        "advantages": advantages, "old_per_token_logps": old, "ref_per_token_logps": reference,
    }  # fmt: skip
    expected = trainer._compute_loss(theirs, None, inputs)

    sequence, place = mask.nonzero(as_tuple=True)
    ours = clipped_policy_loss(
        log_probs[sequence, place], old[sequence, place], advantages[sequence], clip_low=0.2, clip_high=0.28,
        reference_log_probs=reference[sequence, place] if beta else None, kl_coefficient=beta,
    )  # fmt: skip
    reduction = {"grpo": "sequence", "bnpo": "token"}[kind]
    torch.testing.assert_close(reduce_tokens(ours.loss, sequence, lengths, reduction), expected)
    region = theirs._metrics["eval"]["clip_ratio/region_mean"][0]
    assert ours.clipped.float().mean().item() == pytest.approx(region)


def test_on_policy_gradient_is_the_policy_gradient():
    log_probs = random_tensor(7).requires_grad_()
    advantages = random_tensor(7, seed=1)
    loss = clipped_policy_loss(log_probs, log_probs.detach(), advantages, clip_low=0.2, clip_high=0.2).loss
    loss.sum().backward()
    torch.testing.assert_close(log_probs.grad, -advantages)


rewards = st.lists(st.lists(st.floats(-5, 5, width=32), min_size=4, max_size=4), min_size=1, max_size=6)


@settings(max_examples=200, deadline=None)
@given(rewards, st.floats(-3, 3, width=32), st.booleans())
def test_advantages_are_centred_finite_and_ignore_a_shift(values, shift, scale):
    reward = torch.tensor(values, dtype=torch.float64)
    advantages = group_advantages(reward, scale=scale)
    assert torch.isfinite(advantages).all()
    torch.testing.assert_close(advantages.mean(1), torch.zeros(len(values), dtype=torch.float64), atol=1e-6, rtol=0)
    constant = (reward == reward[:, :1]).all(1)
    assert (advantages[constant] == 0).all()
    if not scale:
        torch.testing.assert_close(group_advantages(reward + shift, scale=False), advantages, atol=1e-9, rtol=0)
    order = advantages[:, 0] > advantages[:, 1]
    assert (reward[:, 0][order] > reward[:, 1][order]).all()


def test_constant_group_with_rounding_in_its_mean_gets_zeros():
    assert (group_advantages(torch.full((1, 3), 0.1)) == 0).all()


def test_losses_are_log_two_without_a_preference_and_fall_with_the_margin():
    zero = torch.zeros(1)
    assert bradley_terry_loss(zero, zero).item() == pytest.approx(0.693147, rel=1e-5)
    assert dpo_loss(zero, zero, zero, zero, 0.1).loss.item() == pytest.approx(0.693147, rel=1e-5)
    assert bradley_terry_loss(zero + 2, zero) < bradley_terry_loss(zero + 1, zero)
