"""The language-modelling objective over packed shards, shared by pre-training, context extension and the sweep."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from components.data.shard_reader import ShardReader, document_ids
from components.training.sequence_parallel import Slice
from model.loss import IGNORE, cross_entropy
from model.transformer import Transformer


def next_token_loss(model: Transformer, tokens: Tensor | Slice) -> tuple[Tensor, dict[str, float]]:
    """Mean cross-entropy in nats of windows ``tokens`` (B, T + 1), or a slice of them; labels of padding are negative.

    A window's documents see each other across ``<|endoftext|>``, as in the report's pre-training: a causal mask
    alone keeps attention on its fastest path. Router losses of a mixture of experts are added to the loss.
    """
    positions = None
    if isinstance(tokens, Slice):
        positions, tokens = tokens.positions, tokens.tokens
    inputs, labels = tokens[:, :-1].clamp(min=0), tokens[:, 1:]
    labels = labels.masked_fill(labels < 0, IGNORE)
    hidden = model(inputs, position_ids=positions)
    total, count = cross_entropy(hidden, model.output_weight, labels)
    loss = total / max(1, count)
    metrics = {"tokens": float(count)}
    if model.config.moe is not None:
        auxiliary = model.auxiliary_loss
        statistics = model.router_statistics()
        # The busiest expert's share of all tokens: what the watch judges.
        share = statistics["router/busiest"] * model.config.moe.num_experts_per_tok / model.config.moe.num_experts
        metrics |= {"router_loss": float(auxiliary.detach()), "router_top_share": min(1.0, share), **statistics}
        loss = loss + auxiliary
    return loss, metrics


def mark_padding(tokens: np.ndarray, eos_id: int) -> Tensor:
    """Windows from a ShardReader (B, T + 1) with padding as -1, int64."""
    return torch.from_numpy(np.where(document_ids(tokens, eos_id) < 0, -1, tokens))


def uniform_batches(
    reader: ShardReader, seed: int, batch_size: int, length: int, device: str
) -> Callable[[int], Tensor]:
    """``batch_at(step)`` over all windows of ``length``: every window once an epoch."""

    def batch_at(step: int) -> Tensor:
        return mark_padding(reader.batch(seed, step, batch_size, length), reader.eos_id).to(device)

    return batch_at


def copying_batch(seed: int, step: int, batch_size: int, length: int, eos_id: int, vocabulary: int = 1024) -> Tensor:
    """Random token sequences, each said until it fills about 60 tokens or twice, (B, T + 1) int64.

    Pre-pretraining in the sense of Hu et al. 2025 (arXiv 2502.19249): on uniform random tokens nothing but copying
    lowers the loss, and induction heads form within a few hundred steps; words and numbers offer other gains first.
    The tokens are the first ``vocabulary`` ones, in a byte-level BPE the bytes and the most frequent merges.
    """
    draw = np.random.default_rng([seed, step, length, batch_size])
    rows = np.empty((batch_size, length + 1), dtype=np.int64)
    for row in rows:
        filled: list[int] = []
        while len(filled) <= length:
            sequence = draw.integers(0, min(vocabulary, eos_id), draw.integers(4, 30)).tolist()
            filled += sequence * max(2, 60 // len(sequence)) + [eos_id]
        row[:] = filled[: length + 1]
    return torch.from_numpy(rows)


@torch.inference_mode()
def held_out_loss(model: Transformer, reader: ShardReader, length: int, windows_per_domain: int = 16) -> float:
    """Mean loss in nats a token over the first ``windows_per_domain`` held-out windows of each domain."""
    was_training = model.training
    model.eval()
    device = model.output_weight.device
    total, count = 0.0, 0
    for domain in reader.validation:
        for tokens in reader.validation_batches(domain, length, windows_per_domain):
            windows = mark_padding(tokens, reader.eos_id).to(device)
            labels = windows[:, 1:].masked_fill(windows[:, 1:] < 0, IGNORE)
            loss, labelled = cross_entropy(model(windows[:, :-1].clamp(min=0)), model.output_weight, labels)
            total, count = total + float(loss), count + labelled
            break
    model.train(was_training)
    return total / max(1, count) if count else math.nan
