"""Logits to tokens: greedy, temperature, top-k, nucleus (arXiv 1904.09751), penalties and grammars, row by row.

Each row brings one uniform number, and its token is the inverse of the cumulative distribution there: what a request
says depends on its own numbers alone. Shapes: R rows, V vocabulary.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# The cumulative distribution is searched in blocks of this many tokens, then inside one.
_BLOCK = 256
_LEAST_TEMPERATURE = 1e-4
_MOST = 1e30  # of a logit under a penalty


@dataclass(slots=True)
class Row:
    """How one row's token is chosen."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    uniform: float = 0.0
    """In [0, 1); not looked at where temperature is 0."""
    top_log_probs: int = 0
    log_probs_of: Sequence[int] = ()
    penalty: "Penalty | None" = None
    allowed: Tensor | None = None
    """(V,) bool: what a grammar lets through; at least one."""


@dataclass(slots=True)
class Penalty:
    """What a text holds already, and what that costs its tokens."""

    repetition: float
    presence: float
    frequency: float
    seen: Tensor
    """(S,) different tokens of prompt and answer."""
    answered: Tensor
    """(A,) different tokens of the answer."""
    counts: Tensor
    """(A,) float32: how often it holds each."""

    def apply(self, logits: Tensor) -> None:
        """Change the logits (V,) of one row."""
        if self.repetition != 1.0:
            values = logits[self.seen]
            scaled = torch.where(values < 0, values * self.repetition, values / self.repetition)
            logits[self.seen] = scaled.clamp(-_MOST, _MOST)  # infinities would make the softmax NaN
        if self.presence or self.frequency:
            logits[self.answered] -= self.presence + self.frequency * self.counts


@dataclass(frozen=True)
class Drawn:
    tokens: list[int]
    log_probs: list[float]
    """Under the model's own distribution at the row's temperature (1 for greedy)."""
    top: list[tuple[tuple[int, float], ...]]
    asked: list[tuple[float, ...]]


def sample(logits: Tensor, rows: Sequence[Row]) -> Drawn:
    """(R, V) float32 logits, which are overwritten, and how to choose -> a token for each row."""
    changed = [index for index, row in enumerate(rows) if row.penalty is not None or row.allowed is not None]
    own = {index: _changed(logits[index], rows[index]) for index in changed}
    if any(row.temperature not in (0.0, 1.0) for row in rows):
        scale = torch.tensor([1.0 if _is_greedy(row) else row.temperature for row in rows], device=logits.device)
        logits /= scale[:, None]
    log_probs = logits.log_softmax(dim=-1)
    for index, values in own.items():
        logits[index] = values / (1.0 if _is_greedy(rows[index]) else rows[index].temperature)
    chosen = torch.empty(len(rows), dtype=torch.long, device=logits.device)
    for (kind, top_k, top_p), members in _alike(rows).items():
        everyone = len(members) == len(rows)
        places = slice(None) if everyone else torch.tensor(members, device=logits.device)
        if kind == "greedy":
            chosen[places] = _argmax(logits[places])
            continue
        uniforms = torch.tensor([rows[i].uniform for i in members], dtype=torch.float64, device=logits.device)
        unchanged = not any(i in own for i in members)
        weights = log_probs[places].exp() if unchanged else logits[places].softmax(dim=-1)
        if top_k or top_p < 1:
            chosen[places] = _from_the_head(weights, uniforms, top_k, top_p)
        else:
            chosen[places] = invert(weights, uniforms)
    own_log_probs = log_probs.gather(-1, chosen[:, None]).squeeze(-1)
    asked = [tuple(own[list(row.log_probs_of)].tolist()) for own, row in zip(log_probs, rows, strict=True)]
    return Drawn(chosen.tolist(), own_log_probs.tolist(), _top(log_probs, rows), asked)


def _is_greedy(row: Row) -> bool:
    """Dividing by less would overflow, and the likeliest token has all the mass long before that."""
    return row.temperature < _LEAST_TEMPERATURE


def _changed(logits: Tensor, row: Row) -> Tensor:
    """A copy of one row's logits under its penalty and its grammar."""
    logits = logits.clone()
    if row.penalty is not None:
        row.penalty.apply(logits)
    if row.allowed is not None:
        logits[~row.allowed] = float("-inf")
    return logits


def _alike(rows: Sequence[Row]) -> dict[tuple[str, int, float], list[int]]:
    """Rows that are chosen in the same way."""
    found: dict[tuple[str, int, float], list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        key = ("greedy", 0, 1.0) if _is_greedy(row) else ("drawn", row.top_k, row.top_p)
        found[key].append(index)
    return found


def _argmax(logits: Tensor) -> Tensor:
    """(R, V) -> (R,), the first of equals. NumPy's is several times faster than torch's on a CPU."""
    if logits.device.type == "cpu":
        return torch.from_numpy(np.argmax(logits.numpy(), axis=-1))
    return logits.argmax(dim=-1)


def _from_the_head(weights: Tensor, uniforms: Tensor, top_k: int, top_p: float) -> Tensor:
    """Keep the ``top_k`` likeliest, then the fewest of them that hold ``top_p`` of the mass, and draw."""
    size = weights.shape[-1]
    if 0 < top_k < size:
        ranked, order = weights.topk(top_k, dim=-1)
        return order.gather(-1, invert(_nucleus(ranked, top_p), uniforms)[:, None]).squeeze(-1)
    chosen = []
    for row, uniform in zip(weights, uniforms, strict=True):
        # All tokens below this bound together hold less than what the nucleus leaves out: none of them is in it.
        candidates = (row * size > 1 - top_p).nonzero().squeeze(-1) if top_p < 1 else torch.arange(size)
        if not len(candidates):  # a tiny nucleus of equal weights, all rounded down
            candidates = row.argmax()[None]
        ranked, order = row[candidates].sort(descending=True, stable=True)
        kept = _nucleus(ranked[None], top_p, row.sum())
        chosen.append(candidates[order[invert(kept, uniform[None])]])
    return torch.cat(chosen)


def _nucleus(ranked: Tensor, top_p: float, total: Tensor | None = None) -> Tensor:
    """Weights (R, k), largest first, with zeros after those that hold ``top_p`` of the total (of their sum)."""
    if top_p == 1.0:
        return ranked
    shares = ranked / (ranked.sum(dim=-1, keepdim=True) if total is None else total)
    # in float64: of a tiny top_p float32 keeps nothing, and then no token would be left
    return ranked.masked_fill((shares.cumsum(dim=-1) - shares).double() >= top_p, 0.0)


def invert(weights: Tensor, uniforms: Tensor) -> Tensor:
    """The first index whose cumulative weight exceeds ``uniform * total``: (R, n) and (R,) float64 -> (R,); never
    one of weight zero. In two levels, since summing 151,936 numbers one after another takes longer than the rest."""
    if weights.shape[-1] <= 2 * _BLOCK:
        cumulative = weights.cumsum(dim=-1, dtype=torch.float64)
        return _search(cumulative, uniforms * cumulative[:, -1])
    blocks = F.pad(weights, (0, -weights.shape[-1] % _BLOCK)).unflatten(-1, (-1, _BLOCK))  # (R, n / 256, 256)
    ends = blocks.sum(dim=-1).cumsum(dim=-1, dtype=torch.float64)
    target = uniforms * ends[:, -1]
    block = _search(ends, target)
    before = torch.where(block > 0, ends.gather(-1, (block - 1).clamp(min=0)[:, None]).squeeze(-1), 0.0)
    inside = blocks[torch.arange(len(block), device=block.device), block].cumsum(dim=-1, dtype=torch.float64)
    return block * _BLOCK + _search(inside, target - before)


def _search(cumulative: Tensor, target: Tensor) -> Tensor:
    total = cumulative[:, -1]
    target = torch.minimum(target.clamp(min=0), total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(cumulative, target[:, None], right=True).squeeze(-1)


def _top(log_probs: Tensor, rows: Sequence[Row]) -> list[tuple[tuple[int, float], ...]]:
    most = min(max(row.top_log_probs for row in rows), log_probs.shape[-1])
    if most == 0:
        return [()] * len(rows)
    values, tokens = (each.tolist() for each in log_probs.topk(most, dim=-1))
    return [
        tuple(zip(own_tokens, own_values, strict=True))[: row.top_log_probs]
        for row, own_tokens, own_values in zip(rows, tokens, values, strict=True)
    ]
