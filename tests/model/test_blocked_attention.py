"""Blocked training attention against the framework's, values and gradients."""

import pytest
import torch
import torch.nn.functional as F

import model.blocked_attention as blocked
from model.transformer import document_mask


@pytest.mark.parametrize("tokens", [1, 17, 64, 150])
@pytest.mark.parametrize(("heads", "key_value_heads"), [(4, 4), (4, 1), (6, 2)])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kept", [0, 512])
def test_equals_the_frameworks(tokens, heads, key_value_heads, masked, kept, monkeypatch) -> None:
    monkeypatch.setattr(blocked, "KEPT_TOKENS", kept)
    monkeypatch.setattr(blocked, "BLOCK_SCORES", 2 * heads * tokens * 16)  # several blocks, the last one short
    torch.manual_seed(0)
    shapes = ((2, heads, tokens, 8), (2, key_value_heads, tokens, 8), (2, key_value_heads, tokens, 8))
    tensors = [torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in shapes]
    mask = document_mask(torch.arange(tokens).div(23, rounding_mode="floor").expand(2, -1)) if masked else None
    gradient = torch.randn(shapes[0], dtype=torch.float64)
    expected = F.scaled_dot_product_attention(*tensors, attn_mask=mask, is_causal=not masked, enable_gqa=True)
    wanted = torch.autograd.grad(expected, tensors, gradient)
    actual = blocked.blocked_attention(*tensors, mask)
    torch.testing.assert_close(actual, expected)
    for ours, theirs in zip(torch.autograd.grad(actual, tensors, gradient), wanted, strict=True):
        torch.testing.assert_close(ours, theirs)
