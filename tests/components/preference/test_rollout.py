"""What an update learns from: which answers are in the loss, against TRL's masks, and that nothing in it is NaN."""

from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from post_training import AloneAccelerator, tiny_model

from components.preference.losses import clipped_policy_loss, reduce_tokens
from components.preference.rollout import PolicyBatch, advantages_of, policy_batch
from components.sft.sampling import Answer
from model.loss import token_log_probs

VOCABULARY, LONGEST = 50, 6
REDUCTIONS = ("sequence", "token", "constant")


def some_answers(count, seed=0):
    """Answers of 1 to LONGEST tokens to prompts of 2 to 5; every fourth has LONGEST tokens and was cut there."""
    rng = np.random.default_rng(seed)
    answers = []
    for index in range(count):
        tokens = rng.integers(0, VOCABULARY, LONGEST if index % 4 == 3 else rng.integers(1, LONGEST)).tolist()
        log_probs = (-rng.random(len(tokens)) * 0.4 - 3.7).tolist()
        prompt = rng.integers(0, VOCABULARY, rng.integers(2, 6)).tolist()
        answers.append(Answer("", prompt, tokens, log_probs, len(tokens) < LONGEST))
    return answers


def batch_of(answers, advantages, **options) -> PolicyBatch:
    return policy_batch(answers, np.asarray(advantages), {}, sequence_length=24, padding_id=0, **options)


def loss_of(batch, log_probs, reduction, kl=0.0, reference=None):
    sequence = batch.sequences.token_sequence
    values = clipped_policy_loss(
        log_probs, batch.old_log_probs, batch.advantages[sequence], clip_low=0.2, clip_high=0.28,
        reference_log_probs=reference, kl_coefficient=kl,
    ).loss  # fmt: skip
    return reduce_tokens(values, batch.answer[sequence], batch.lengths, reduction, LONGEST)


def log_probs_of(model, sequences):
    hidden = model(sequences.input_ids, document_ids=sequences.document_ids)
    return token_log_probs(hidden, model.output_weight, sequences.labels)[sequences.learnt]


def padded_log_probs(model, answers):
    """(answers, LONGEST), each answer read alone."""
    rows = []
    for answer in answers:
        hidden = model(torch.tensor([answer.prompt + answer.tokens]))
        every = (hidden[0, :-1] @ model.output_weight.T).log_softmax(-1)[len(answer.prompt) - 1 :]
        own = every.gather(1, torch.tensor(answer.tokens)[:, None]).squeeze(1)
        rows.append(torch.nn.functional.pad(own, (0, LONGEST - len(own))))
    return torch.stack(rows)


@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize(("reduction", "kind"), [*zip(REDUCTIONS, ("grpo", "dapo", "dr_grpo"), strict=True)])
def test_kl_and_filtering_reach_the_answers_that_trl_lets_them_reach(reduction, kind, filtered):
    trainer = pytest.importorskip("trl").GRPOTrainer
    answers = some_answers(8)
    # The first group's answers are all alike: they have no advantage, but drift from the reference all the same.
    advantages = np.concatenate([np.zeros(4), advantages_of(np.array([[0.0, 1.0, 1.0, 0.5]]), "group")[0]])
    cut = np.array([not answer.finished for answer in answers])
    assert cut[:4].any() and cut[4:].any() and not cut.all()
    model, reference, beta = tiny_model(VOCABULARY), tiny_model(VOCABULARY, seed=1).requires_grad_(False), 0.5

    lengths = torch.tensor([len(answer.tokens) for answer in answers])
    mask = (torch.arange(LONGEST) < lengths[:, None]).long()
    if filtered:  # as its _generate_and_score_completions does for mask_truncated_completions
        mask = mask * torch.from_numpy(~cut)[:, None]
    old = torch.tensor([answer.log_probs + [0.0] * (LONGEST - len(answer.tokens)) for answer in answers])
    ids = torch.zeros(8, LONGEST, dtype=torch.long)
    theirs = SimpleNamespace(
        model=SimpleNamespace(training=False), accelerator=AloneAccelerator(), aux_loss_enabled=False,
        top_entropy_quantile=1.0, off_policy_mask_threshold=None, importance_sampling_level="token", beta=beta,
        args=SimpleNamespace(use_bias_correction_kl=False, delta=None), loss_type=kind, epsilon_low=0.2,
        epsilon_high=0.28, max_completion_length=LONGEST, use_vllm=False, _entropy_bonus_enabled=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _get_per_token_logps_and_entropies=lambda *_, **__: (padded_log_probs(model, answers), old, None),
    )  # fmt: skip
    inputs = {
        "prompt_ids": ids, "prompt_mask": ids, "completion_ids": ids, "completion_mask": mask,
        "advantages": torch.from_numpy(advantages).float(), "old_per_token_logps": old,
        "ref_per_token_logps": padded_log_probs(reference, answers), "num_items_in_batch": mask.sum(),
    }  # fmt: skip
    expected = trainer._compute_loss(theirs, None, inputs)
    gradients = torch.autograd.grad(expected, list(model.parameters()))

    batch = batch_of(answers, advantages, left_out=cut if filtered else None, penalised=True)
    with torch.no_grad():
        reference_log_probs = log_probs_of(reference, batch.sequences)
    loss = loss_of(batch, log_probs_of(model, batch.sequences), reduction, beta, reference_log_probs)
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    for ours, gradient in zip(torch.autograd.grad(loss, list(model.parameters())), gradients, strict=True):
        torch.testing.assert_close(ours, gradient, atol=1e-5, rtol=1e-4)
    assert max(gradient.abs().max() for gradient in gradients) > 1e-3


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_without_a_penalty_answers_of_no_advantage_cost_no_computation_and_change_nothing(reduction):
    answers, advantages = some_answers(8), np.array([0, 0, 0, 0, 1.0, -0.5, -0.5, 0])
    model = tiny_model(VOCABULARY)
    few, all_of_them = batch_of(answers, advantages), batch_of(answers, advantages, penalised=True)
    assert len(few.advantages) == 3 < len(all_of_them.advantages) == 8
    losses = [loss_of(batch, log_probs_of(model, batch.sequences), reduction) for batch in (few, all_of_them)]
    torch.testing.assert_close(*losses, atol=1e-6, rtol=1e-6)


groups = st.lists(
    st.one_of(
        st.floats(-5, 5, width=32).map(lambda value: [value] * 4),
        st.lists(st.floats(-5, 5, width=32), min_size=4, max_size=4),
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=100, deadline=None)
@given(
    groups, st.sampled_from(("group", "batch", "none")), st.sampled_from(REDUCTIONS), st.booleans(),
    st.integers(0, 2**12 - 1),
)  # fmt: skip
def test_constant_groups_teach_nothing_and_no_update_is_nan(values, scaling, reduction, penalised, bits):
    rewards = np.array(values)
    advantages = advantages_of(rewards, scaling)
    constant = (rewards == rewards[:, :1]).all(1)
    assert np.isfinite(advantages).all() and not advantages[constant].any()
    answers = some_answers(rewards.size)
    left_out = np.array([bool(bits >> i & 1) for i in range(rewards.size)])
    flat = np.where(left_out, 0.0, advantages.ravel())
    batch = batch_of(answers, flat, left_out=left_out, penalised=penalised)
    log_probs = (batch.old_log_probs + 0.1).requires_grad_()
    loss = loss_of(batch, log_probs, reduction, 0.1 if penalised else 0.0, batch.old_log_probs if penalised else None)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(log_probs.grad).all()
    if not penalised:
        of_answer = np.repeat(constant, 4)[batch.answer[batch.sequences.token_sequence].numpy()]
        assert not log_probs.grad[torch.from_numpy(of_answer)].any()


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_leaving_answers_out_changes_no_bit_but_of_a_mean_over_tokens(reduction):
    answers, advantages = some_answers(8), np.array([0, 0, 0, 0, 1.0, -0.5, -0.5, 0])
    batches = [batch_of(answers, advantages), batch_of(answers, advantages, left_out=np.arange(8) < 4)]
    losses = [loss_of(batch, batch.old_log_probs + 0.1, reduction) for batch in batches]
    assert torch.equal(*losses) == (reduction != "token")
