"""The losses against TRL's own code on the same tensors, and the algebra that they must obey."""

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from post_training import AloneAccelerator

from components.preference.dpo import DPOConfig
from components.preference.grpo import GRPOConfig
from components.preference.losses import (
    bradley_terry_loss,
    clipped_policy_loss,
    dpo_loss,
    group_advantages,
    overlong_punishment,
    reduce_tokens,
)
from components.preference.reward_model import RewardConfig


def random_tensor(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", ["sigmoid", "sigmoid_norm", "robust"])
def test_dpo_equals_trl(kind):
    trainer = pytest.importorskip("trl").DPOTrainer
    pairs, tokens = 3, 5
    lengths = torch.tensor([5, 2, 4, 1, 3, 5])
    learnt = torch.arange(tokens) < lengths[:, None]
    leaf = random_tensor(2 * pairs, tokens, seed=1).requires_grad_()
    log_probs = leaf * learnt
    reference = random_tensor(2 * pairs, tokens, seed=2) * learnt
    ones = torch.ones(2 * pairs, tokens + 1, dtype=torch.long)
    completion = torch.cat([torch.zeros(2 * pairs, 1, dtype=torch.long), learnt.long()], dim=1)
    outputs = SimpleNamespace(
        log_probs=log_probs, entropy=torch.zeros_like(log_probs), mean_logits=torch.zeros_like(log_probs),
        is_top1=torch.zeros_like(log_probs, dtype=torch.bool),
    )  # fmt: skip
    theirs = SimpleNamespace(
        model=SimpleNamespace(training=True), accelerator=AloneAccelerator(), aux_loss_enabled=False, ld_alpha=None,
        precompute_ref_logps=True, f_divergence_type="reverse_kl", loss_types=[kind], loss_weights=[1.0],
        beta=0.3, use_weighting=False, _metrics=defaultdict(lambda: defaultdict(list)), _total_train_tokens=0,
        _tp_size=1, label_smoothing=0.1,
    )  # fmt: skip
    chosen, rejected = log_probs.sum(1).chunk(2)
    reference_chosen, reference_rejected = reference.sum(1).chunk(2)
    inputs = {
        "input_ids": ones, "attention_mask": ones, "completion_mask": completion,
        "ref_chosen_logps": reference_chosen, "ref_rejected_logps": reference_rejected,
    }  # fmt: skip
    expected = trainer._compute_loss(theirs, lambda **_: outputs, inputs, False)
    gradient = torch.autograd.grad(expected, leaf, retain_graph=True)[0]
    arguments = [chosen, rejected, reference_chosen, reference_rejected]
    if kind == "sigmoid_norm":
        per_answer = [*lengths.chunk(2), *lengths.chunk(2)]
        arguments = [total / count for total, count in zip(arguments, per_answer, strict=True)]
    ours = dpo_loss(*arguments, beta=0.3, flip_rate=0.1 if kind == "robust" else 0.0)
    torch.testing.assert_close(ours.loss.mean(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(torch.autograd.grad(ours.loss.mean(), leaf)[0], gradient, atol=1e-5, rtol=1e-5)
    if kind == "sigmoid_norm":  # TRL's metrics stay those of the sums
        return
    margins = theirs._metrics["train"]["rewards/margins"][0]
    assert (ours.chosen_reward - ours.rejected_reward).mean().item() == pytest.approx(margins, rel=1e-5)


@pytest.mark.parametrize(
    ("variant", "kind"),
    [("grpo", "grpo"), ("dapo", "bnpo"), ("dapo", "dapo"), ("dr-grpo", "dr_grpo"), ("gspo", "grpo")],
)
@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_policy_loss_equals_trl(variant, kind, beta):
    trainer = pytest.importorskip("trl").GRPOTrainer
    config = GRPOConfig(variant=variant, max_new_tokens=20)
    level = "sequence" if variant == "gspo" else "token"
    log_probs = (random_tensor(4, 6, seed=1) * 0.3).requires_grad_()
    old, reference = random_tensor(4, 6, seed=2) * 0.3, random_tensor(4, 6, seed=3) * 0.3
    advantages = random_tensor(4, seed=4)
    lengths = torch.tensor([6, 3, 5, 1])
    mask = (torch.arange(6) < lengths[:, None]).long()
    theirs = SimpleNamespace(
        model=SimpleNamespace(training=False), accelerator=AloneAccelerator(), aux_loss_enabled=False,
        top_entropy_quantile=1.0, off_policy_mask_threshold=None, importance_sampling_level=level, beta=beta,
        args=SimpleNamespace(use_bias_correction_kl=False, delta=None), loss_type=kind,
        epsilon_low=config.clip_low, epsilon_high=config.clip_high, max_completion_length=20, use_vllm=False,
        _entropy_bonus_enabled=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _get_per_token_logps_and_entropies=lambda *_, **__: (log_probs, torch.zeros_like(log_probs), None),
    )  # fmt: skip
    ids = torch.zeros(4, 6, dtype=torch.long)
    inputs = {
        "prompt_ids": ids, "prompt_mask": ids, "completion_ids": ids, "completion_mask": mask,
        "advantages": advantages, "old_per_token_logps": old, "ref_per_token_logps": reference,
        "num_items_in_batch": mask.sum(),
    }  # fmt: skip
    expected = trainer._compute_loss(theirs, None, inputs)

    sequence, place = mask.nonzero(as_tuple=True)
    ours = clipped_policy_loss(
        log_probs[sequence, place], old[sequence, place], advantages[sequence],
        clip_low=config.clip_low, clip_high=config.clip_high, kl_coefficient=beta,
        reference_log_probs=reference[sequence, place] if beta else None,
        sequence=sequence if config.ratio == "sequence" else None,
    )  # fmt: skip
    loss = reduce_tokens(ours.loss, sequence, lengths, config.reduction, config.max_new_tokens)
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    gradient = torch.autograd.grad(expected, log_probs)[0]
    torch.testing.assert_close(torch.autograd.grad(loss, log_probs)[0], gradient, atol=1e-5, rtol=1e-5)
    assert gradient.abs().max() > 1e-3
    if level == "token":  # TRL counts sequences where the ratio is theirs
        region = theirs._metrics["eval"]["clip_ratio/region_mean"][0]
        assert ours.clipped.float().mean().item() == pytest.approx(region)


def test_overlong_punishment_equals_trl():
    theirs = pytest.importorskip("trl.rewards").get_soft_overlong_punishment(20, 8)
    expected = theirs(completion_ids=[[0] * count for count in range(25)])
    torch.testing.assert_close(overlong_punishment(torch.arange(25), 20, 8), torch.tensor(expected))


def test_robust_loss_is_the_clean_loss_on_average_over_flipped_labels():
    zero, margin, rate = torch.zeros(1), torch.tensor([1.7]), 0.2
    right = dpo_loss(margin, zero, zero, zero, 1.0, flip_rate=rate).loss
    flipped = dpo_loss(zero, margin, zero, zero, 1.0, flip_rate=rate).loss
    clean = dpo_loss(margin, zero, zero, zero, 1.0).loss
    torch.testing.assert_close((1 - rate) * right + rate * flipped, clean)


def test_settings_beside_a_variant_win_over_the_papers():
    config = GRPOConfig(variant="dapo", clip_high=0.5)
    assert (config.reduction, config.clip_high, config.overlong) == ("token", 0.5, "soft")
    with pytest.raises(ValueError, match="overlong_buffer 16 is above max_new_tokens 8"):
        GRPOConfig(variant="dapo", max_new_tokens=8)


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


@pytest.mark.parametrize("with_margin", [False, True])
def test_the_reward_loss_equals_trl(with_margin):
    trainer = pytest.importorskip("trl").RewardTrainer
    leaf, margin = random_tensor(12, 1, seed=3).requires_grad_(), random_tensor(6, seed=4).abs()
    theirs = SimpleNamespace(
        model=SimpleNamespace(training=False), accelerator=AloneAccelerator(), _tp_size=1, _total_train_tokens=0,
        args=SimpleNamespace(center_rewards_coefficient=None), _metrics=defaultdict(lambda: defaultdict(list)),
    )  # fmt: skip
    inputs = {"margin": margin} if with_margin else {}
    expected = trainer.compute_loss(theirs, lambda **_: SimpleNamespace(logits=leaf), dict(inputs))
    gradient = torch.autograd.grad(expected, leaf)[0]
    chosen, rejected = leaf.squeeze(1).chunk(2)
    loss = bradley_terry_loss(chosen, rejected, margin if with_margin else 0.0).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.autograd.grad(loss, leaf)[0], gradient, rtol=1e-5, atol=1e-5)


def test_losses_are_log_two_without_a_preference_and_fall_with_the_margin():
    zero = torch.zeros(1)
    assert bradley_terry_loss(zero, zero).item() == pytest.approx(0.693147, rel=1e-5)
    assert dpo_loss(zero, zero, zero, zero, 0.1).loss.item() == pytest.approx(0.693147, rel=1e-5)
    assert bradley_terry_loss(zero + 2, zero) < bradley_terry_loss(zero + 1, zero)


def test_settings_that_came_later_leave_the_dump_of_a_default_alone():
    later = {"variant", "ratio", "overlong", "overlong_buffer"}
    assert not later & GRPOConfig().model_dump(mode="json").keys()
    gspo = GRPOConfig(variant="gspo")
    assert GRPOConfig(**gspo.model_dump(mode="json")) == gspo
    assert not {"length_normalised", "flip_rate"} & DPOConfig().model_dump(mode="json").keys()
    assert "margin" not in RewardConfig().model_dump(mode="json")
    assert DPOConfig(flip_rate=0.1).model_dump(mode="json")["flip_rate"] == 0.1
