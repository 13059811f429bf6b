"""The key-value cache of generation: preallocated, left-padded, shared by all layers."""

import torch
from torch import Tensor

from model.config import ModelConfig


class KVCache:
    """Keys and values of ``batch`` rows, ``capacity`` slots each.

    Row ``b`` starts at slot ``start[b]`` (the slots before it are left padding), so that all rows write the
    same slot at the same step. A token's position is its slot minus its row's start.
    """

    def __init__(
        self, config: ModelConfig, batch: int, capacity: int, *, start: Tensor | None = None,
        dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        shape = (config.num_hidden_layers, batch, config.num_key_value_heads, capacity, config.head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.start = torch.zeros(batch, dtype=torch.long, device=device) if start is None else start
        self.padded = bool((self.start > 0).any())
        self.length = 0

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store (B, K, T, D) after what is there; return all of the layer's keys and values (B, K, S, D)."""
        end = self.length + keys.shape[2]
        self.keys[layer, :, :, self.length : end] = keys
        self.values[layer, :, :, self.length : end] = values
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def advance(self, tokens: int) -> None:
        """Called once a forward pass, after every layer has appended."""
        self.length += tokens

    def positions(self, first: int, end: int) -> Tensor:
        """Positions (B, end - first) of these slots; 0 for padding."""
        slots = torch.arange(first, end, device=self.start.device)
        return (slots - self.start[:, None]).clamp_(min=0)

    def mask(self, tokens: int) -> Tensor | None:
        """May slot ``length + i`` see slot ``s``: (B, 1, tokens, length + tokens) bool; None: plainly causal."""
        if not self.padded and (tokens == 1 or self.length == 0):
            return None
        slots = torch.arange(self.length + tokens, device=self.start.device)
        causal = slots <= slots[self.length :, None]
        # a padding query sees its own slot only: an empty row of a softmax would be NaN
        own = slots == slots[self.length :, None]
        return ((slots >= self.start[:, None, None]) & causal | own)[:, None]

    def select(self, rows: Tensor) -> None:
        """Keep (or repeat) these rows, in this order."""
        self.keys = self.keys.index_select(1, rows)
        self.values = self.values.index_select(1, rows)
        self.start = self.start.index_select(0, rows)
        self.padded = bool((self.start > 0).any())
