"""Bits per byte of held-out documents under a Transformer: comparable between tokenizers and with n-gram models."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from components.evaluation.held_out import HeldOutDocument
from model.loss import IGNORE, token_log_probs
from model.transformer import Transformer


@torch.inference_mode()
def document_bits(
    model: Transformer,
    documents: Sequence[HeldOutDocument],
    eos_id: int,
    *,
    length: int,
    tokens_per_batch: int = 8_192,
    advance: Callable[[int], None] = lambda documents: None,
) -> np.ndarray:
    """Bits that ``model`` needs for each document, (documents,) float64.

    A document is predicted from its start, behind one ``eos_id`` as in packed training windows. One that is longer than
    ``length`` is read in windows that overlap by half, so that every later token still sees ``length / 2`` before it.
    """
    bits = np.zeros(len(documents))
    windows = [(index, window) for index, d in enumerate(documents) for window in _windows(len(d.tokens), length)]
    # Rows of about the same length together: little padding.
    windows.sort(key=lambda entry: (entry[1][1] - entry[1][0], entry[0], entry[1]))
    device = next(model.parameters()).device
    while windows:
        width = windows[-1][1][1] - windows[-1][1][0]
        batch, windows = windows[-max(1, tokens_per_batch // width) :], windows[: -max(1, tokens_per_batch // width)]
        rows = [_row(documents[index].tokens, *window, eos_id, width) for index, window in batch]
        inputs, labels = (torch.stack(column).to(device) for column in zip(*rows, strict=True))
        log_probs = token_log_probs(model(inputs), model.output_weight, labels)
        spent = -log_probs.double().sum(dim=1).cpu().numpy() / np.log(2)
        np.add.at(bits, [index for index, _ in batch], spent)
        advance(sum(window[0] == 0 for _, window in batch))
    return bits


def _windows(tokens: int, length: int) -> list[tuple[int, int, int]]:
    """(begin, end, first scored) of the windows over a document: every token is scored in exactly one."""
    windows = [(0, min(tokens, length), 0)]
    step = max(1, length // 2)
    while windows[-1][1] < tokens:
        scored = windows[-1][1]
        end = min(tokens, scored + step)
        windows.append((max(0, end - length), end, scored))
    return windows


def _row(tokens: np.ndarray, begin: int, end: int, scored: int, eos_id: int, width: int) -> tuple[Tensor, Tensor]:
    """Inputs and labels of one window, each (width,): input ``i`` is the token before label ``i``.

    Padding on the right needs no mask: nothing before it attends to it.
    """
    before = np.concatenate([[eos_id], tokens[:-1]])
    inputs = torch.full((width,), eos_id, dtype=torch.long)
    labels = torch.full((width,), IGNORE, dtype=torch.long)
    inputs[: end - begin] = torch.from_numpy(before[begin:end])
    labels[scored - begin : end - begin] = torch.from_numpy(tokens[scored:end])
    return inputs, labels
