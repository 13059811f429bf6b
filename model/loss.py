"""The output layer and its losses, in chunks: never are the logits of all tokens held at once.

For a 151,936-row vocabulary the logits of 8,192 tokens alone are 5 GB in float32, and again as their gradient.
"""

import torch
from torch import Tensor

from model.linear import add_outer, product_back, tall_product

IGNORE = -100
"""Label of a token that carries no loss."""

# Tokens whose logits are held at once. With 4,096 vocabulary rows that is 4 MB in float32, which stays in the
# last-level cache (10% faster than 16 MB there); with 151,936 rows 156 MB, and still long matrix products.
CHUNK_TOKENS = 256
# Below it a probability has lost digits or is zero, and its logarithm is computed from the logits.
LEAST_PROBABILITY = 1e-30


def cross_entropy(hidden: Tensor, weight: Tensor, labels: Tensor) -> tuple[Tensor, int]:
    """Sum of -log p(label) over the labelled tokens (scalar), and how many there are.

    ``hidden`` (..., H), ``weight`` (V, H), ``labels`` (...) with ``IGNORE`` where there is no loss. The
    gradient is computed with the loss, so the head's product is done once.
    """
    rows, targets, _ = _labelled(hidden, labels)
    return _SumCrossEntropy.apply(rows, weight, targets), targets.numel()


def token_log_probs(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """log p(label) of each token, float32 in the shape of ``labels``; 0.0 at ``IGNORE``."""
    rows, targets, labelled = _labelled(hidden, labels)
    log_probs = _TokenLogProbs.apply(rows, weight, targets)
    if labelled is None:
        return log_probs.view(labels.shape)
    empty = torch.zeros(labels.numel(), dtype=torch.float32, device=hidden.device)
    return empty.index_put((labelled,), log_probs).view(labels.shape)


def _labelled(hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Rows that carry a label, their labels, and where they were (None: everywhere)."""
    rows, targets = hidden.reshape(-1, hidden.shape[-1]), labels.reshape(-1)
    labelled = (targets != IGNORE).nonzero().squeeze(1)
    if labelled.numel() == targets.numel():
        return rows, targets, None
    return rows.index_select(0, labelled), targets.index_select(0, labelled), labelled


def _chunks(rows: int) -> list[slice]:
    return [slice(start, min(start + CHUNK_TOKENS, rows)) for start in range(0, rows, CHUNK_TOKENS)]


class _SumCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        want_rows, want_weight = ctx.needs_input_grad[:2]
        total = torch.zeros((), dtype=torch.float32, device=rows.device)
        grad_rows = torch.empty_like(rows) if want_rows else None
        grad_weight = torch.zeros_like(weight) if want_weight else None
        for part in _chunks(rows.shape[0]):
            probabilities, log_probs = _softmax(rows[part], weight, targets[part])
            total -= log_probs.sum()
            if not (want_rows or want_weight):
                continue
            grad = _minus_one_hot(probabilities, targets[part]).to(rows.dtype)  # d(-log p) / d logits
            if grad_rows is not None:
                grad_rows[part] = product_back(grad, weight)
            if grad_weight is not None:
                add_outer(grad_weight, grad, rows[part])
        ctx.grads = grad_rows, grad_weight
        return total

    @staticmethod
    def backward(ctx, grad_output: Tensor):
        if ctx.grads is None:
            raise RuntimeError("cross_entropy goes backward once: its gradients are scaled where they lie")
        grad_rows, grad_weight = ctx.grads
        ctx.grads = None  # a second copy of the weight's gradient would be the largest tensor of the step
        return (
            None if grad_rows is None else grad_rows.mul_(grad_output.to(grad_rows.dtype)),
            None if grad_weight is None else grad_weight.mul_(grad_output.to(grad_weight.dtype)),
            None,
        )


class _TokenLogProbs(torch.autograd.Function):
    """The gradient depends on each token's own weight, so backward computes the logits again."""

    @staticmethod
    def forward(ctx, rows: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        ctx.save_for_backward(rows, weight, targets)
        log_probs = torch.empty(rows.shape[0], dtype=torch.float32, device=rows.device)
        for part in _chunks(rows.shape[0]):
            logits = tall_product(rows[part], weight).float()
            chosen = logits.gather(1, targets[part][:, None]).squeeze(1)
            log_probs[part] = chosen - logits.logsumexp(dim=1)
        return log_probs

    @staticmethod
    def backward(ctx, grad_output: Tensor):
        rows, weight, targets = ctx.saved_tensors
        want_rows, want_weight = ctx.needs_input_grad[:2]
        grad_rows = torch.empty_like(rows) if want_rows else None
        grad_weight = torch.zeros_like(weight) if want_weight else None
        for part in _chunks(rows.shape[0]):
            probabilities, _ = _softmax(rows[part], weight, targets[part])
            grad = _minus_one_hot(probabilities, targets[part]).mul_(-grad_output[part][:, None])
            grad = grad.to(rows.dtype)
            if grad_rows is not None:
                grad_rows[part] = product_back(grad, weight)
            if grad_weight is not None:
                add_outer(grad_weight, grad, rows[part])
        return grad_rows, grad_weight, None


def _softmax(rows: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities (R, V) and log-probabilities of the targets (R,), float32; one buffer of that size in all."""
    probabilities = tall_product(rows, weight).float()
    torch.softmax(probabilities, dim=1, out=probabilities)
    chosen = probabilities.gather(1, targets[:, None]).squeeze(1)
    log_probs = chosen.log()
    if (unlikely := (chosen < LEAST_PROBABILITY).nonzero().squeeze(1)).numel():
        logits = tall_product(rows[unlikely], weight).float()
        own = logits.gather(1, targets[unlikely, None]).squeeze(1)
        log_probs[unlikely] = own - logits.logsumexp(dim=1)
    return probabilities, log_probs


def _minus_one_hot(probabilities: Tensor, targets: Tensor) -> Tensor:
    probabilities[torch.arange(targets.numel(), device=targets.device), targets] -= 1.0
    return probabilities
