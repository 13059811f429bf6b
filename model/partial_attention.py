"""Attention over a part of the keys, and how the parts become one: exact, and without a mask of T x S.

softmax over a union of key sets is the mean of the softmaxes over each set, weighted by exp(log-sum-exp of its logits)
(the online softmax of FlashAttention, arXiv 2205.14135). So a long prefill runs over ranges of keys, each with the
rotation that holds there. Shapes: N query heads, K key-value heads, T queries, S keys, D head_dim.
"""

from typing import NamedTuple

import torch
from torch import Tensor

ROWS_AT_ONCE = 64
"""Queries whose logits are held at once where no fused kernel serves: few enough to stay in a CPU's cache (256 rows
take nearly twice as long)."""


HIDDEN = -1e30
"""Logit of a key that no query sees: finite, so that a row without any other key has no NaN."""


class Run(NamedTuple):
    """A stretch of one text in a batch: queries that follow each other, and all keys from the text's start to the
    last query."""

    row: int
    queries: slice
    """Among the step's tokens."""
    keys: slice
    """Slots; the first holds position 0."""

    @property
    def position(self) -> int:
        """Of the first query."""
        return self.keys.stop - self.keys.start - (self.queries.stop - self.queries.start)


def runs_of_rows(starts: list[int], cached: int, tokens: int) -> list[Run]:
    """Rows whose text begins at slot ``starts[row]`` (the slots before are padding) and of which ``cached`` slots were
    there before these ``tokens``."""
    runs = [
        Run(row, slice(max(start - cached, 0), tokens), slice(start, cached + tokens))
        for row, start in enumerate(starts)
    ]
    return [run for run in runs if run.queries.start < run.queries.stop]


def runs_of_documents(document_ids: Tensor) -> list[Run]:
    """Documents (B, T) of equal neighbouring ids; none for padding, -1."""
    runs = []
    for row, ids in enumerate(document_ids):
        numbers, lengths = ids.unique_consecutive(return_counts=True)
        start = 0
        for number, length in zip(numbers.tolist(), lengths.tolist(), strict=True):
            if number != -1:
                runs.append(Run(row, slice(start, start + length), slice(start, start + length)))
            start += length
    return runs


def attend_part(
    query: Tensor, key: Tensor, value: Tensor, *, causal: bool = False, hidden: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(N, T, D) over (K, S, D), S > 0 -> output (N, T, D) and the log-sum-exp of the logits (N, T).

    ``causal``: as many keys as queries, query i sees keys 0..i. ``hidden`` (K, S) bool: keys that no query sees; where
    that is all of them, the log-sum-exp is so low that nothing comes of the part when it is merged.
    """
    if query.device.type == "cpu" and not (torch.is_grad_enabled() and _any_gradient(query, key, value)):
        return _fused(query, key, value, causal, hidden)
    return _row_blocks(query, key, value, causal, hidden)


def merge_parts(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The output and log-sum-exp of attention over the union of disjoint key sets."""
    if len(parts) == 1:
        return parts[0]
    logs = torch.stack([log for _, log in parts])
    total = logs.logsumexp(dim=0)
    shares = (logs - total).exp().unsqueeze(-1)
    output = shares[0] * parts[0][0]  # float32 or more, like the logs
    for share, (part, _) in zip(shares[1:], parts[1:], strict=True):
        output = torch.addcmul(output, share, part.to(share.dtype))
    return output.to(parts[0][0].dtype), total


def _any_gradient(*tensors: Tensor) -> bool:
    return any(tensor.requires_grad for tensor in tensors)


def _fused(query: Tensor, key: Tensor, value: Tensor, causal: bool, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
    """The framework's own CPU kernel under ``scaled_dot_product_attention``, which alone gives the log-sum-exp; that
    has no gradient. Keys are read where they lie, as views too: those of a group, or overlapping windows."""
    groups = key.shape[0]
    grouped = query.unflatten(0, (groups, -1))  # (K, G, T, D)
    shape = (groups, grouped.shape[1], *key.shape[1:])
    mask = None if hidden is None else torch.where(hidden, HIDDEN, 0.0).to(query.dtype)[:, None, None]
    output, log = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        grouped, key[:, None].expand(shape), value[:, None].expand(shape), 0.0, causal, attn_mask=mask
    )
    return output.flatten(0, 1), log.flatten(0, 1)


def _row_blocks(
    query: Tensor, key: Tensor, value: Tensor, causal: bool, hidden: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The same in plain operations, differentiable, on any device."""
    (heads, tokens, size), groups = query.shape, key.shape[0]
    outputs, logs = [], []
    for start in range(0, tokens, ROWS_AT_ONCE):
        end = min(start + ROWS_AT_ONCE, tokens)
        seen = end if causal else key.shape[1]
        rows = query[:, start:end].reshape(groups, -1, size)  # (K, G t, D)
        logits = rows @ key[:, :seen].transpose(1, 2)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) * size**-0.5
        if hidden is not None:
            logits = logits.masked_fill(hidden[:, None, :seen], HIDDEN)
        logits = logits.view(heads, end - start, seen)
        if causal:
            future = torch.ones(end - start, seen, dtype=torch.bool, device=query.device).triu_(start + 1)
            logits = logits.masked_fill(future, float("-inf"))
        log = logits.logsumexp(dim=-1)
        shares = (logits - log.unsqueeze(-1)).exp().to(value.dtype).view(groups, -1, seen)
        outputs.append((shares @ value[:, :seen]).view(heads, end - start, size))
        logs.append(log)
    return torch.cat(outputs, dim=1), torch.cat(logs, dim=1)
