"""The merging optimizer against numpy, and that a resumed run draws the masks of an uninterrupted one."""

import copy

import numpy as np
import pytest
import torch

from components.preference.online_merging import (
    OnlineMergingOptimizer,
    add_by_consensus,
    drop_at_random,
    keep_largest,
    merge,
)


def random_tensor(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def numpy_keep_largest(values, keep):
    flat = values.flatten()
    order = np.argsort(-np.abs(flat), kind="stable")[: max(1, round(keep * flat.size))]
    sparse = np.zeros_like(flat)
    sparse[order] = flat[order]
    return sparse.reshape(values.shape)


@pytest.mark.parametrize("keep", [0.01, 0.3, 1.0])
def test_keep_largest_equals_numpy(keep):
    values = random_tensor(8, 5)
    np.testing.assert_array_equal(keep_largest(values, keep).numpy(), numpy_keep_largest(values.numpy(), keep))


def test_consensus_keeps_the_side_with_the_larger_mass():
    first, second = torch.tensor([1.0, -3.0, 2.0, 0.0]), torch.tensor([2.0, 1.0, -5.0, 4.0])
    assert add_by_consensus(first, second).tolist() == [3.0, -3.0, -5.0, 4.0]


def test_ties_step_equals_numpy():
    delta, tau = random_tensor(6, 7) * 0.01, random_tensor(6, 7, seed=1)
    step = merge(
        delta, tau, alpha=0.02, keep=0.4, method="ties", rescale=False, generator=torch.Generator()
    ).numpy()  # fmt: skip
    a = np.float32(0.98) * numpy_keep_largest(delta.numpy(), 0.4)
    b = np.float32(0.02) * numpy_keep_largest(tau.numpy(), 0.4)
    elected = np.sign(a + b)
    np.testing.assert_allclose(step, np.where(np.sign(a) == elected, a, 0) + np.where(np.sign(b) == elected, b, 0))


@pytest.mark.parametrize("rescale", [True, False])
def test_dare_step_equals_numpy(rescale):
    delta, tau = random_tensor(6, 7) * 0.01, random_tensor(6, 7, seed=1)
    step = merge(
        delta, tau, alpha=0.02, keep=0.4, method="dare", rescale=rescale,
        generator=torch.Generator().manual_seed(5),
    ).numpy()  # fmt: skip
    draws = torch.Generator().manual_seed(5)
    masks = [torch.rand(6, 7, generator=draws).double().numpy() < 0.4 for _ in range(2)]
    share = 0.4 if rescale else 1.0
    expected = 0.98 * masks[0] * delta.double().numpy() / share + 0.02 * masks[1] * tau.double().numpy() / share
    np.testing.assert_allclose(step, expected, rtol=1e-5, atol=1e-9)


def test_dropping_keeps_the_share_and_with_rescaling_the_mean():
    values = torch.ones(40_000)
    dropped = drop_at_random(values, 0.25, torch.Generator().manual_seed(0), rescale=True)
    assert set(dropped.unique().tolist()) == {0.0, 4.0}
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.03)
    assert drop_at_random(values, 0.25, torch.Generator().manual_seed(0), rescale=False).max() == 1.0


def make(alpha=0.1, keep=0.5, method="dare"):
    parameter = torch.nn.Parameter(random_tensor(4, 3))
    tau = random_tensor(4, 3, seed=9)
    adam = torch.optim.AdamW([parameter], lr=0.1)
    optimizer = OnlineMergingOptimizer(adam, {parameter: tau}, alpha=alpha, keep=keep, method=method, seed=3)
    return parameter, tau, optimizer


def descend(parameter, optimizer):
    (parameter**2).sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_without_dropping_a_step_is_the_convex_sum_of_adam_and_tau():
    parameter, tau, optimizer = make(alpha=0.1, keep=1.0)
    start = parameter.detach().clone()
    plain = torch.nn.Parameter(start.clone())
    adam = torch.optim.AdamW([plain], lr=0.1)
    descend(plain, adam)
    descend(parameter, optimizer)
    torch.testing.assert_close(parameter.detach(), start + 0.9 * (plain.detach() - start) + 0.1 * tau)


def test_alpha_zero_and_keep_one_is_adam():
    parameter, _, optimizer = make(alpha=0.0, keep=1.0)
    plain = torch.nn.Parameter(parameter.detach().clone())
    adam = torch.optim.AdamW([plain], lr=0.1)
    for _ in range(3):
        descend(plain, adam)
        descend(parameter, optimizer)
    torch.testing.assert_close(parameter.detach(), plain.detach())


@pytest.mark.parametrize("method", ["dare", "ties"])
def test_resumed_run_equals_uninterrupted_one(method):
    parameter, _, optimizer = make(method=method)
    for _ in range(2):
        descend(parameter, optimizer)
    weights, state = parameter.detach().clone(), copy.deepcopy(optimizer.state_dict())
    for _ in range(3):
        descend(parameter, optimizer)

    resumed, _, other = make(method=method)
    resumed.data.copy_(weights)
    other.load_state_dict(state)
    for _ in range(3):
        descend(resumed, other)
    assert torch.equal(resumed, parameter)


def test_learning_rate_set_on_the_wrapper_reaches_the_wrapped_optimizer():
    parameter, _, optimizer = make(alpha=0.0, keep=1.0)
    before = parameter.detach().clone()
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    descend(parameter, optimizer)
    assert torch.equal(parameter.detach(), before)
