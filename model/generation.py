"""Batched generation with a key-value cache: greedy, temperature, top-k and nucleus sampling (arXiv 1904.09751).

Every request draws from its own random stream, made from the seed, its prompt and how often that prompt has come
before, so what it says does not depend on what else is in the batch or in which order.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from model.cache import KVCache
from model.transformer import Transformer

# A prefill holds at most this many padded prompt tokens: bounds its activations (and T x T masks).
PREFILL_TOKENS = 32_768
# Rows leave the cache once this share of them has finished: copying the cache at every stop costs more.
COMPACT_SHARE = 1 / 8


@dataclass(slots=True)
class Generation:
    """One answer."""

    tokens: list[int] = field(default_factory=list)
    """New tokens, the stop token included where one came."""
    log_probs: list[float] = field(default_factory=list)
    """log p of each token at the given temperature (1 for greedy), before top-k and top-p cut the tail."""
    finished: bool = False
    """A stop token came before ``max_new_tokens``."""


@torch.inference_mode()
def generate(
    model: Transformer, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, temperature: float = 0.0,
    top_p: float = 1.0, top_k: int = 0, stop_ids: Sequence[int] = (), seed: int = 0, samples_per_prompt: int = 1,
    batch_rows: int = 256,
) -> list[Generation]:  # fmt: skip
    """``samples_per_prompt`` answers to each prompt, in the prompts' order (a prompt's samples are neighbours).

    ``temperature`` 0 is greedy. ``top_k`` 0 and ``top_p`` 1 keep every token. ``batch_rows``: answers that are
    written at once; each prompt is read once, however many answers it gets.
    """
    if max_new_tokens < 1 or samples_per_prompt < 1:
        raise ValueError("max_new_tokens and samples_per_prompt must be at least 1")
    if temperature < 0 or not 0 < top_p <= 1 or top_k < 0:
        raise ValueError(f"temperature {temperature}, top_p {top_p} or top_k {top_k} is out of range")
    if empty := [index for index, prompt in enumerate(prompts) if not prompt]:
        raise ValueError(f"prompt {empty[0]} has no tokens")
    sampler = _Sampler(temperature, top_p, top_k)
    draws = _uniforms(prompts, samples_per_prompt, max_new_tokens, seed) if temperature > 0 else None
    results = [Generation() for _ in range(len(prompts) * samples_per_prompt)]
    for batch in _batches(prompts, max(1, batch_rows // samples_per_prompt)):
        rows = [index * samples_per_prompt + sample for index in batch for sample in range(samples_per_prompt)]
        uniforms = None if draws is None else torch.from_numpy(draws[rows])
        answers = _generate_batch(
            model, [prompts[index] for index in batch], samples_per_prompt, max_new_tokens, sampler, uniforms, stop_ids
        )  # fmt: skip
        for row, answer in zip(rows, answers, strict=True):
            results[row] = answer
    return results


def _batches(prompts: Sequence[Sequence[int]], most: int) -> Iterator[list[int]]:
    """Prompt indices, similar lengths together so that little is padding."""
    order = sorted(range(len(prompts)), key=lambda index: (len(prompts[index]), index))
    batch: list[int] = []
    for index in order:
        if batch and (len(batch) >= most or (len(batch) + 1) * len(prompts[index]) > PREFILL_TOKENS):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _generate_batch(
    model: Transformer, prompts: list[Sequence[int]], samples: int, max_new_tokens: int, sampler: "_Sampler",
    uniforms: Tensor | None, stop_ids: Sequence[int],
) -> list[Generation]:  # fmt: skip
    """Prefill each prompt once, repeat its cache for every sample, then a token at a time for all live rows."""
    device = model.output_weight.device
    cache, hidden = _prefill(model, prompts, max_new_tokens)
    if samples > 1:
        cache.select(torch.arange(len(prompts), device=device).repeat_interleave(samples))
        hidden = hidden.repeat_interleave(samples, dim=0)
    total = hidden.shape[0]
    tokens = torch.zeros(total, max_new_tokens, dtype=torch.long, device=device)
    log_probs = torch.zeros(total, max_new_tokens, device=device)
    lengths = torch.full((total,), max_new_tokens, device=device)
    finished = torch.zeros(total, dtype=torch.bool, device=device)
    stops = torch.tensor(list(stop_ids), dtype=torch.long, device=device)
    uniforms = None if uniforms is None else uniforms.to(device)
    rows = torch.arange(total, device=device)  # the rows that the cache still holds
    live = torch.ones(total, dtype=torch.bool, device=device)  # and which of them still write
    for step in range(max_new_tokens):
        draws = None if uniforms is None else uniforms[rows, step]
        chosen, chosen_log_probs = sampler(model.logits(hidden), draws)
        tokens[rows, step], log_probs[rows, step] = chosen, chosen_log_probs
        ends = live & torch.isin(chosen, stops)
        ended = rows[ends]
        lengths[ended], finished[ended] = step + 1, True
        live = live & ~ends
        alive = int(live.sum())
        if alive == 0 or step + 1 == max_new_tokens:
            break
        if alive <= (1 - COMPACT_SHARE) * len(rows):
            kept = live.nonzero().squeeze(1)
            cache.select(kept)
            rows, chosen, live = rows[kept], chosen[kept], live[kept]
        hidden = model(chosen[:, None], cache=cache)[:, -1]
    return [
        Generation(row_tokens[:length], row_log_probs[:length], done)
        for row_tokens, row_log_probs, length, done in zip(
            tokens.tolist(), log_probs.tolist(), lengths.tolist(), finished.tolist(), strict=True
        )
    ]


def _prefill(model: Transformer, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> tuple[KVCache, Tensor]:
    """A cache that holds the left-padded prompts, and the hidden state of each one's last token (B, H)."""
    weight = model.output_weight
    longest = max(map(len, prompts))
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt, dtype=torch.long)
    start = torch.tensor([longest - len(prompt) for prompt in prompts], device=weight.device)
    cache = KVCache(
        model.config, len(prompts), longest + max_new_tokens, start=start, dtype=weight.dtype, device=weight.device
    )  # fmt: skip
    return cache, model(ids.to(weight.device), cache=cache)[:, -1]


def _uniforms(prompts: Sequence[Sequence[int]], samples: int, max_new_tokens: int, seed: int) -> np.ndarray:
    """One number in [0, 1) for each answer and step: (prompts * samples, max_new_tokens) float64."""
    seen: dict[bytes, int] = defaultdict(int)
    draws = np.empty((len(prompts) * samples, max_new_tokens))
    for index, prompt in enumerate(prompts):
        content = np.asarray(prompt, dtype=np.int64).tobytes()
        for sample in range(samples):
            label = b"%d %d %s" % (seed, seen[content], content)
            seen[content] += 1
            key = int.from_bytes(hashlib.sha256(label).digest()[:16], "little")
            stream = np.random.Generator(np.random.Philox(key=key))
            draws[index * samples + sample] = stream.random(max_new_tokens)
    return draws


class _Sampler:
    """Logits to tokens, by inverting the cumulative distribution at one uniform number a row."""

    def __init__(self, temperature: float, top_p: float, top_k: int) -> None:
        self.temperature, self.top_p, self.top_k = temperature, top_p, top_k

    def __call__(self, logits: Tensor, uniforms: Tensor | None) -> tuple[Tensor, Tensor]:
        """(R, V) logits and (R,) uniforms -> tokens (R,) and their log-probabilities (R,) float32."""
        logits = logits.float()
        if uniforms is None:
            chosen = logits.argmax(dim=-1)
            return chosen, _log_prob(logits, chosen)
        logits = logits / self.temperature
        probabilities = logits.softmax(dim=-1)
        if self.top_k == 0 and self.top_p == 1.0:
            chosen = _invert(probabilities, uniforms)
        else:
            chosen = self._from_the_head(probabilities, uniforms)
        return chosen, _log_prob(logits, chosen)

    def _from_the_head(self, probabilities: Tensor, uniforms: Tensor) -> Tensor:
        """Keep the ``top_k`` likeliest, then the fewest of them that hold ``top_p`` of the mass."""
        kept = min(self.top_k or probabilities.shape[-1], probabilities.shape[-1])
        ranked, order = probabilities.topk(kept, dim=-1)
        if self.top_p < 1.0:
            ranked = ranked / ranked.sum(dim=-1, keepdim=True)
            before = ranked.cumsum(dim=-1) - ranked
            ranked = ranked.masked_fill(before >= self.top_p, 0.0)
        return order.gather(-1, _invert(ranked, uniforms)[:, None]).squeeze(-1)


def _log_prob(logits: Tensor, chosen: Tensor) -> Tensor:
    return logits.gather(-1, chosen[:, None]).squeeze(-1) - logits.logsumexp(dim=-1)


def _invert(weights: Tensor, uniforms: Tensor) -> Tensor:
    """The first index whose cumulative weight exceeds ``uniform * total``; never one of weight zero."""
    cumulative = weights.cumsum(dim=-1, dtype=torch.float64)
    total = cumulative[:, -1]
    target = torch.minimum(uniforms * total, total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(cumulative, target[:, None], right=True).squeeze(-1)
