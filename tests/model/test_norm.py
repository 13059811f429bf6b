"""The normalisation's own CPU gradient against the framework's."""

import pytest
import torch
import torch.nn.functional as F

from model.norm import RMSNorm


@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 5)])
def test_values_and_gradients_equal_the_framework(shape):
    norm = RMSNorm(5, 1e-6).double()
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(5))
    expected = F.rms_norm(x, (5,), norm.weight, 1e-6)
    torch.testing.assert_close(norm(x), expected)
    pull = torch.randn_like(expected)
    ours = torch.autograd.grad(norm(x), (x, norm.weight), pull)
    theirs = torch.autograd.grad(expected, (x, norm.weight), pull)
    for mine, peer in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, peer)


def test_a_zero_vector_stays_zero_and_finite():
    x = torch.zeros(2, 5, requires_grad=True)
    norm = RMSNorm(5, 1e-6)
    norm(x).sum().backward()
    assert not norm(x).any()
    assert torch.isfinite(x.grad).all()


def test_without_gradients_it_is_the_framework_itself():
    norm, x = RMSNorm(5, 1e-6), torch.randn(4, 5)
    with torch.no_grad():
        assert torch.equal(norm(x), F.rms_norm(x, (5,), norm.weight, 1e-6))
