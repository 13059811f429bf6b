"""Chunked losses against the plain formula, values and gradients."""

import pytest
import torch
from torch.nn import functional as F

from model import loss
from model.loss import IGNORE, cross_entropy, token_log_probs


@pytest.fixture(params=[1, 7, 10**9], ids=["row by row", "chunks", "whole"])
def problem(request, monkeypatch):
    monkeypatch.setattr(loss, "CHUNK_TOKENS", request.param)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, 11, 16, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(31, 16, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(31, (3, 11), generator=generator)
    labels[0, :4], labels[2, 5] = IGNORE, IGNORE
    return hidden, weight, labels


def reference(hidden, weight, labels):
    log_probs = F.log_softmax(hidden @ weight.t(), dim=-1)
    chosen = log_probs.gather(-1, labels.clamp(min=0)[..., None]).squeeze(-1)
    return chosen.masked_fill(labels == IGNORE, 0.0)


def gradients(value, *inputs):
    return torch.autograd.grad(value, inputs, retain_graph=True)


def test_cross_entropy(problem):
    hidden, weight, labels = problem
    total, count = cross_entropy(hidden, weight, labels)
    expected = -reference(hidden, weight, labels).sum()
    assert count == int((labels != IGNORE).sum())
    torch.testing.assert_close(total.double(), expected, rtol=1e-5, atol=0)
    for ours, theirs in zip(
        gradients(total / count, hidden, weight), gradients(expected / count, hidden, weight), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_token_log_probs(problem):
    hidden, weight, labels = problem
    log_probs = token_log_probs(hidden, weight, labels)
    expected = reference(hidden, weight, labels)
    assert log_probs.dtype == torch.float32
    assert (log_probs[labels == IGNORE] == 0).all()
    torch.testing.assert_close(log_probs.double(), expected, rtol=1e-5, atol=1e-6)
    pull = torch.randn(labels.shape, generator=torch.Generator().manual_seed(1))  # a weight for each token
    for ours, theirs in zip(
        gradients((log_probs * pull).sum(), hidden, weight),
        gradients((expected * pull).sum(), hidden, weight),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_nothing_labelled_is_a_zero_loss(problem):
    hidden, weight, labels = problem
    nothing = torch.full_like(labels, IGNORE)
    total, count = cross_entropy(hidden, weight, nothing)
    total.backward()
    assert (total.item(), count, hidden.grad.abs().sum().item()) == (0.0, 0, 0.0)
    assert not token_log_probs(hidden, weight, nothing).any()


def test_frozen_weight_gets_no_gradient(problem):
    hidden, weight, labels = problem
    cross_entropy(hidden, weight.detach(), labels)[0].backward()
    token_log_probs(hidden, weight.detach(), labels).sum().backward()
    assert weight.grad is None
    assert hidden.grad is not None


def test_agrees_with_the_framework_in_bfloat16():
    hidden, weight = torch.randn(8, 16).bfloat16(), torch.randn(40, 16).bfloat16()
    labels = torch.randint(40, (8,))
    total, _ = cross_entropy(hidden, weight, labels)
    expected = F.cross_entropy((hidden @ weight.t()).float(), labels, reduction="sum")
    torch.testing.assert_close(total, expected)


def test_a_probability_below_all_numbers_has_a_loss():
    hidden, weight = torch.tensor([[10.0, 0.0], [10.0, 1.0]]), torch.tensor([[20.0, 0.0], [-20.0, 0.0]])
    labels = torch.tensor([1, 0])
    assert -token_log_probs(hidden, weight, labels).sum().item() == pytest.approx(400.0)
    assert cross_entropy(hidden, weight.requires_grad_(), labels)[0].item() == pytest.approx(400.0)
