"""Muon against the framework's, which orthogonalises in bfloat16, and against the singular value decomposition."""

import pytest
import torch

from components.training.muon import Muon, orthogonalised


@pytest.mark.parametrize("shape", [(24, 24), (16, 48), (48, 16), (1, 8)])
def test_singular_vectors_stay_and_values_come_near_one(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 30
    left, values, right = torch.linalg.svd(x.double(), full_matrices=False)
    found = left.t() @ orthogonalised(x).double() @ right.t()
    torch.testing.assert_close(found, torch.diag(found.diagonal()), atol=1e-4, rtol=0)
    assert found.diagonal()[values > 0.02 * values[0]].min() > 0.6
    assert found.diagonal().max() < 1.25


def test_steps_are_the_frameworks_but_for_its_precision():
    torch.manual_seed(0)
    start = [torch.randn(24, 40), torch.randn(40, 24)]
    ours, theirs = ([torch.nn.Parameter(x.clone()) for x in start] for _ in range(2))
    optimizers = (
        Muon(ours, 0.02, 0.1), torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    )  # fmt: skip
    for _ in range(5):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn(mine.shape)
            other.grad = mine.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for mine, other, begun in zip(ours, theirs, start, strict=True):
        torch.testing.assert_close(mine, other, atol=0.03 * (mine - begun).abs().max().item(), rtol=0)


def test_a_matrix_without_a_gradient_stays():
    still, moved = (torch.nn.Parameter(torch.ones(3, 4)) for _ in range(2))
    moved.grad = torch.ones(3, 4)
    Muon([still, moved], 0.1, 0.1).step()
    assert torch.equal(still, torch.ones(3, 4))
    assert not torch.equal(moved, still)


def test_a_zero_gradient_gives_no_direction():
    parameter = torch.nn.Parameter(torch.ones(3, 4))
    parameter.grad = torch.zeros(3, 4)
    Muon([parameter], 0.1, 0.0).step()
    assert torch.equal(parameter, torch.ones(3, 4))
