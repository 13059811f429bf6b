"""Token sequences with a loss mask, packed into windows whose documents do not see each other.

SFT, DPO, reward model and GRPO all feed the model through ``PackedSequences``: no position is spent on padding but
at the ends of windows, and a response has the same log-probability as alone in a batch.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from components.data.packing import pack_documents
from components.training.sharding import bounds
from model.loss import IGNORE

Sequence = tuple[list[int], list[bool]]
"""Token ids, and for each whether it is learnt (an assistant's token)."""


@dataclass(frozen=True)
class PackedSequences:
    """Windows of several sequences; T positions each, whose labels are the tokens one further."""

    input_ids: Tensor
    """(windows, T) int64."""
    labels: Tensor
    """(windows, T) int64; IGNORE where the next token is not learnt or belongs to another sequence."""
    document_ids: Tensor
    """(windows, T) int64: index of the sequence in the packed list, -1 on padding."""
    ends: Tensor
    """(sequences,) int64: flat index into (windows, T) of each sequence's last token."""
    sizes: Tensor
    """(windows,) int64: learnt tokens of each window."""

    def __len__(self) -> int:
        return len(self.input_ids)

    def rows(self, indices: Tensor) -> "PackedSequences":
        """Some of the windows. ``ends`` loses its meaning and becomes empty."""
        return PackedSequences(
            self.input_ids[indices], self.labels[indices], self.document_ids[indices], self.ends[:0],
            self.sizes[indices],
        )  # fmt: skip

    def split(self, parts: int) -> "list[tuple[PackedSequences, float]]":
        """Windows in ``parts`` parts, each with its share of the learnt tokens: for losses that are means over them."""
        learnt = max(1, int(self.sizes.sum()))
        found = []
        for start, stop in bounds(len(self), parts):
            part = self.rows(torch.arange(start, stop) if stop > start else torch.arange(1))
            found.append((part, int(part.sizes.sum()) / learnt if stop > start else 0.0))
        return found

    def to(self, device: str) -> "PackedSequences":
        return PackedSequences(
            self.input_ids.to(device), self.labels.to(device), self.document_ids.to(device), self.ends.to(device),
            self.sizes.to(device),
        )  # fmt: skip

    @property
    def learnt(self) -> Tensor:
        """(windows, T) bool."""
        return self.labels != IGNORE

    @property
    def token_sequence(self) -> Tensor:
        """Sequence of every learnt token in reading order, (learnt,)."""
        return self.document_ids[self.learnt]


def pack(sequences: list[Sequence], length: int, padding_id: int) -> PackedSequences:
    """Best-fit pack whole sequences into windows of ``length`` tokens.

    Raises ValueError when a sequence is longer than ``length``: cutting an answer would teach its absence.
    """
    lengths = np.array([len(ids) for ids, _ in sequences], dtype=np.int64)
    if len(lengths) and lengths.max() > length:
        raise ValueError(f"a sequence of {lengths.max()} tokens does not fit a window of {length}")
    length = min(length, _tight_length(lengths, length))
    windows = pack_documents(np.concatenate([[0], np.cumsum(lengths)]), length - 1)
    starts = np.cumsum(lengths) - lengths
    piece_sequence = np.searchsorted(starts, windows.starts)
    shape = (len(windows), length)
    tokens = np.full(shape, padding_id, np.int64)
    owner = np.full(shape, -1, np.int64)
    learnt = np.zeros(shape, bool)
    ends = np.zeros(len(sequences), np.int64)
    for window in range(len(windows)):
        filled = 0
        for piece in range(windows.first_piece[window], windows.first_piece[window + 1]):
            index = int(piece_sequence[piece])
            ids, mask = sequences[index]
            stop = filled + len(ids)
            tokens[window, filled:stop], owner[window, filled:stop], learnt[window, filled:stop] = ids, index, mask
            ends[index] = window * length + stop - 1
            filled = stop
    same = owner[:, 1:] == owner[:, :-1]
    labels = np.where(learnt[:, 1:] & same, tokens[:, 1:], IGNORE)
    return PackedSequences(
        torch.from_numpy(tokens), torch.from_numpy(np.pad(labels, ((0, 0), (0, 1)), constant_values=IGNORE)),
        torch.from_numpy(owner), torch.from_numpy(ends), torch.from_numpy((labels != IGNORE).sum(1)),
    )  # fmt: skip


def _tight_length(lengths: np.ndarray, length: int) -> int:
    """A batch smaller than one window needs no more positions than it has tokens."""
    return max(2, int(lengths.sum())) if len(lengths) and lengths.sum() < length else length
