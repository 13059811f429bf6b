"""Compiled training attention against the framework's in float64, values and gradients."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from model import native_attention as native
from model.blocked_attention import blocked_attention
from model.transformer import attend, document_mask

needs_compiler = pytest.mark.skipif(not native.can_attend(torch.empty(1, 1, 1, 32)), reason="no g++ here")


def inputs(batch: int, heads: int, key_value_heads: int, tokens: int, size: int, seed: int = 0):
    """Queries token by token, as the model has them; keys and values head by head."""
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(batch, tokens, heads, size, generator=generator).transpose(1, 2)
    key, value = (torch.randn(batch, key_value_heads, tokens, size, generator=generator) for _ in range(2))
    return [x.requires_grad_() for x in (query, key, value)], torch.randn(query.shape, generator=generator)


def results(attention, tensors, gradient, mask):
    output = attention(*tensors, mask)
    return [output.detach(), *torch.autograd.grad(output, tensors, gradient)]


def reference(query, key, value, mask):
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None, enable_gqa=True)


def documents(batch: int, tokens: int, length: int) -> torch.Tensor:
    """The mask of documents of this length, the last one of padding."""
    ids = torch.arange(tokens).div(length, rounding_mode="floor").expand(batch, -1).clone()
    ids[:, -1] = -1
    return document_mask(ids)


@needs_compiler
@pytest.mark.parametrize("tokens", [2, 17, 64, 65, 150, 300])
@pytest.mark.parametrize(("heads", "key_value_heads", "size"), [(4, 4, 32), (7, 1, 64), (4, 2, 128)])
@pytest.mark.parametrize("length", [0, 23, 100])
def test_equals_the_frameworks(tokens, heads, key_value_heads, size, length):
    tensors, gradient = inputs(2, heads, key_value_heads, tokens, size)
    mask = documents(2, tokens, length) if length else None
    exact = [x.detach().double().requires_grad_() for x in tensors]
    expected = results(reference, exact, gradient.double(), mask)
    for ours, right in zip(results(native.native_attention, tensors, gradient, mask), expected, strict=True):
        torch.testing.assert_close(ours.double(), right, rtol=1e-5, atol=2e-6 * max(1.0, right.abs().max().item()))


@needs_compiler
def test_bits_do_not_depend_on_threads_or_on_other_texts():
    tensors, gradient = inputs(3, 4, 2, 130, 32)
    together = results(native.native_attention, tensors, gradient, None)
    threads = torch.get_num_threads()
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            again = results(native.native_attention, tensors, gradient, None)
            assert all(torch.equal(a, b) for a, b in zip(together, again, strict=True))
    finally:
        torch.set_num_threads(threads)
    alone = results(native.native_attention, [x[1:2] for x in tensors], gradient[1:2], None)
    assert all(torch.equal(a[1:2], b) for a, b in zip(together, alone, strict=True))


@needs_compiler
@pytest.mark.parametrize("scale", [30.0, 1e-20])
def test_extreme_scores_stay_finite(scale):
    tensors, gradient = inputs(1, 2, 1, 100, 32)
    tensors = [(x.detach() * scale).requires_grad_() for x in tensors]
    exact = [x.detach().double().requires_grad_() for x in tensors]
    expected = results(reference, exact, gradient.double(), None)
    for ours, right in zip(results(native.native_attention, tensors, gradient, None), expected, strict=True):
        torch.testing.assert_close(ours.double(), right, rtol=1e-4, atol=1e-4 * right.abs().max().item())


@needs_compiler
def test_what_is_not_a_number_is_not_hidden():
    tensors, gradient = inputs(1, 2, 1, 70, 32)
    with torch.no_grad():
        tensors[1][0, 0, 40] = torch.nan
    output, *_ = results(native.native_attention, tensors, gradient, None)
    assert output[0, :, :40].isfinite().all()
    assert output[0, :, 40:].isnan().all()


def test_what_it_is_not_for_is_left_to_the_blocks(monkeypatch):
    monkeypatch.setattr("model.transformer.native_attention", lambda *_: pytest.fail("not for this"))
    tensors, _ = inputs(1, 2, 1, 20, 16)
    assert torch.equal(attend(*tensors, None), blocked_attention(*tensors, None))
    wide, _ = inputs(1, 2, 1, 20, 32)
    assert attend(*(x.detach().double().requires_grad_() for x in wide), None).dtype == torch.float64
    monkeypatch.setattr(native, "_functions", lambda: None)
    assert torch.equal(attend(*wide, None), blocked_attention(*wide, None))


def test_sizes_are_those_of_the_source():
    source = Path(native.__file__).with_name("attention.cpp").read_text()
    assert re.search(rf"TILE = {native.TILE}, PANEL = {native.PANEL};", source)
