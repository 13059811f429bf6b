"""Compiled RMSNorm, SwiGLU and rotations against float64, and their bits with any number of threads."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from model import native_passes as native
from model.norm import RMSNorm
from model.rope import rotate, rotation

pytestmark = pytest.mark.skipif(native.functions() is None, reason="no g++ here")


@pytest.mark.parametrize("shape", [(1, 5), (3, 16), (2, 70, 37), (200, 256)])
@pytest.mark.parametrize("scale", [1.0, 1e4, 1e-4])
def test_the_norm_equals_the_frameworks(shape, scale):
    torch.manual_seed(0)
    norm, pull = RMSNorm(shape[-1], 1e-6), torch.randn(shape)
    x = (torch.randn(shape) * scale).requires_grad_()
    with torch.no_grad():
        norm.weight.copy_(torch.randn(shape[-1]))
    ours = norm(x)
    assert ours.grad_fn.name() == "_NativeRMSNormBackward"
    exact, weight = x.detach().double().requires_grad_(), norm.weight.detach().double().requires_grad_()
    expected = F.rms_norm(exact, shape[-1:], weight, 1e-6)
    found = [ours, *torch.autograd.grad(ours, (x, norm.weight), pull)]
    for mine, right in zip(
        found, [expected, *torch.autograd.grad(expected, (exact, weight), pull.double())], strict=True
    ):
        torch.testing.assert_close(mine.double(), right, rtol=1e-5, atol=1e-5 * right.abs().max().item())


def test_a_part_of_a_tensor_goes_through_the_framework():
    x = torch.randn(4, 20, requires_grad=True)[:, ::2]
    assert not native.suits(x)
    torch.testing.assert_close(RMSNorm(10, 1e-6)(x), F.rms_norm(x, (10,), torch.ones(10), 1e-6))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("shape", [(7, 2, 32), (40, 3, 10)])
def test_rotations_equal_the_plain_ones(shape, batch):
    """Positions of all texts alike, and of each its own."""
    torch.manual_seed(0)
    positions = torch.randint(0, 5000, (batch, shape[0]))
    cos, sin = (part[:, :, None] for part in rotation(positions, torch.rand(shape[2] // 2), 1.1))
    x, pull = torch.randn(3, *shape, requires_grad=True), torch.randn(3, *shape)
    ours = rotate(x, cos, sin)
    assert ours.grad_fn.name() == "_NativeRotationBackward"
    exact = x.detach().double().requires_grad_()
    expected = rotate(exact, cos.double(), sin.double())
    torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-6)
    found, wanted = torch.autograd.grad(ours, x, pull), torch.autograd.grad(expected, exact, pull.double())
    torch.testing.assert_close(found[0].double(), wanted[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(3,), (5, 7), (40, 176)])
def test_the_gate_equals_the_frameworks(shape):
    torch.manual_seed(0)
    gates, up, pull = torch.randn(shape) * 4, torch.randn(shape), torch.randn(shape)
    exact = [x.double().requires_grad_() for x in (gates, up)]
    expected = F.silu(exact[0]) * exact[1]
    found = [native.gate(gates, up), *native.gate_backward(gates, up, pull.clone())]
    for mine, right in zip(found, [expected, *torch.autograd.grad(expected, exact, pull.double())], strict=True):
        torch.testing.assert_close(mine.double(), right, rtol=1e-5, atol=1e-6)


def test_the_ends_of_the_gate_are_finite():
    gates = torch.tensor([-1e30, -200.0, -88.0, 0.0, 88.0, 200.0, 1e30])
    up, pull = torch.ones(7), torch.ones(7)
    exact = gates.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(F.silu(exact).sum(), exact)
    torch.testing.assert_close(native.gate(gates, up), F.silu(gates), atol=1e-7, rtol=1e-5)
    torch.testing.assert_close(native.gate_backward(gates, up, pull)[0], wanted, atol=1e-6, rtol=1e-5)
    assert native.gate(torch.full((3,), torch.nan), up[:3]).isnan().all()


def test_bits_do_not_depend_on_threads():
    torch.manual_seed(0)
    x, weight, pull = torch.randn(333, 60), torch.randn(60), torch.randn(333, 60)

    def results():
        y, inverse = native.normalise(x, weight, 1e-6)
        return [
            y, *native.normalise_backward(x, inverse, weight, pull), native.gate(x, pull),
            *native.gate_backward(x, pull, pull.clone()),
        ]  # fmt: skip

    threads, first = torch.get_num_threads(), results()
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            assert all(torch.equal(a, b) for a, b in zip(first, results(), strict=True))
    finally:
        torch.set_num_threads(threads)


def test_sizes_are_those_of_the_source():
    source = Path(native.__file__).with_name("passes.cpp").read_text()
    assert re.search(rf"ROWS_OF_A_PART = {native.ROWS_OF_A_PART};", source)
