"""Causal attention for training on a CPU, exact, a block of queries at a time.

The framework's fused kernel spends most of its time outside matrix products there (its backward most of all). Here a
block of queries meets the keys before it in one batched product, small enough that its scores stay in the cache, and
the queries that share a key-value head are rows of the same product. Shapes: B batch, N query heads, K key-value
heads, G = N / K, T tokens, D head size, S keys that a block sees.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

# Scores of a block that are held at once: 4 MB in float32, about what stays in the cache.
BLOCK_SCORES = 2**20
# Up to this many tokens probabilities are kept for the backward pass, a quarter faster; beyond it they are the largest
# tensors of a layer (34 of 111 MB at 8 x 512 tokens of the pocket shape) and are computed again, to the same bits.
KEPT_TOKENS = 256


def blocked_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(query key^T / sqrt(D)) value, causal: (B, N, T, D), 2 x (B, K, T, D), and (B, 1, T, T) bool or None
    -> (B, N, T, D). Where there is a mask it must forbid the future too, and leave each query at least one key."""
    return _BlockedAttention.apply(query, key, value, mask)


class _BlockedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        batch, heads, tokens, size = query.shape
        queries, keys, values = _rows(query, key.shape[1]) * size**-0.5, _flat(key), _flat(value)
        output = torch.empty_like(queries)  # (B K, T G, D)
        bias = None if mask is None else torch.zeros_like(mask, dtype=query.dtype).masked_fill_(~mask, float("-inf"))
        blocks = _Blocks(batch, heads, key.shape[1], tokens, query)
        kept = []
        for rows, end in blocks:
            weights = blocks.weights(queries[:, rows], keys, bias, end)
            output[:, rows] = torch.bmm(weights, values[:, :end])
            if tokens <= KEPT_TOKENS:
                kept.append(weights)
        ctx.save_for_backward(queries, keys, values, output, bias, *kept)
        ctx.blocks = blocks
        return _heads(output, blocks)

    @staticmethod
    def backward(ctx, grad_output: Tensor):
        queries, keys, values, output, bias, *kept = ctx.saved_tensors
        blocks = ctx.blocks
        grad = _rows(grad_output, blocks.key_value_heads)
        # the softmax's own gradient: P * (dP - sum(P dP)), and that sum is grad . output
        inner = (grad * output).sum(dim=-1, keepdim=True)
        grad_queries, grad_keys, grad_values = (
            torch.empty_like(queries),
            torch.zeros_like(keys),
            torch.zeros_like(values),
        )
        for index, (rows, end) in enumerate(blocks):
            block, block_grad = queries[:, rows], grad[:, rows]
            weights = kept[index] if kept else blocks.weights(block, keys, bias, end)
            grad_values[:, :end] += torch.bmm(weights.transpose(1, 2), block_grad)
            scores = torch.bmm(block_grad, values[:, :end].transpose(1, 2)).sub_(inner[:, rows]).mul_(weights)
            grad_queries[:, rows] = torch.bmm(scores, keys[:, :end])
            grad_keys[:, :end] += torch.bmm(scores.transpose(1, 2), block)
        grad_query = _heads(grad_queries.mul_(queries.shape[-1] ** -0.5), blocks)
        unflat = (blocks.batch, blocks.key_value_heads, *keys.shape[1:])
        return grad_query, grad_keys.view(unflat), grad_values.view(unflat), None


class _Blocks:
    """The blocks of queries of one pass: (their rows, how many keys they may see)."""

    def __init__(self, batch: int, heads: int, key_value_heads: int, tokens: int, like: Tensor) -> None:
        self.batch, self.key_value_heads = batch, key_value_heads
        self.group, self.tokens = heads // key_value_heads, tokens
        fitting = max(1, BLOCK_SCORES // (batch * heads * tokens))
        self.size = min(128, max(16, 2 ** (fitting.bit_length() - 1)))
        self.future = torch.full((self.size, self.size), float("-inf"), dtype=like.dtype).triu_(1)[:, None]

    def __iter__(self) -> Iterator[tuple[slice, int]]:
        for start in range(0, self.tokens, self.size):
            end = min(start + self.size, self.tokens)
            yield slice(start * self.group, end * self.group), end

    def weights(self, block: Tensor, keys: Tensor, bias: Tensor | None, end: int) -> Tensor:
        """Probabilities (B K, rows, S) of a block of scaled queries (B K, rows, D)."""
        scores = torch.bmm(block, keys[:, :end].transpose(1, 2))
        length = block.shape[1] // self.group
        start = end - length
        if bias is None:
            scores.view(-1, length, self.group, end)[..., start:] += self.future[:length, :, :length]
        else:
            view = scores.view(self.batch, self.key_value_heads, length, self.group, end)
            view += bias[:, :, start:end, None, :end]
        return torch.softmax(scores, dim=-1)


def _rows(x: Tensor, key_value_heads: int) -> Tensor:
    """(B, N, T, D) -> (B K, T G, D): the G heads of a token are neighbours."""
    batch, heads, tokens, size = x.shape
    grouped = x.reshape(batch, key_value_heads, heads // key_value_heads, tokens, size)
    return grouped.transpose(2, 3).reshape(batch * key_value_heads, -1, size)


def _heads(rows: Tensor, blocks: _Blocks) -> Tensor:
    """The way back: (B K, T G, D) -> (B, N, T, D)."""
    grouped = rows.view(blocks.batch, blocks.key_value_heads, blocks.tokens, blocks.group, rows.shape[-1])
    return grouped.transpose(2, 3).reshape(blocks.batch, -1, blocks.tokens, rows.shape[-1])


def _flat(x: Tensor) -> Tensor:
    """(B, K, T, D) -> (B K, T, D)."""
    return x.reshape(-1, *x.shape[2:])
