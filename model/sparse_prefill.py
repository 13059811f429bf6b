"""Sparse prefill of long prompts: how many verticals and slashes each head may read, kept with the checkpoint.

``model.prefill_search`` finds the budgets; a model that has them reads prompts from ``min_tokens`` on through
``model.vertical_slash``, at once or in chunks, with or without dual chunk attention. Training and decoding stay dense.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from model.config import ModelConfig, ModelFormatError
from model.dual_chunk import attend_run, pieces
from model.rope import rotate, rotation
from model.vertical_slash import BLOCK, Budget, Selection, Shift, attend_selected, scores, select

if TYPE_CHECKING:
    from model.transformer import Transformer

FILE = "sparse_prefill.json"

# Above this share of the keys, reading all of them is faster: its kernel has no windows to begin and to merge.
DENSE_SHARE = 0.4


class SparsePrefill(BaseModel):
    """What ``sparse_prefill.json`` in a checkpoint holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    budgets: tuple[tuple[Budget | None, ...], ...] = Field(description="by layer and head; null: reads everything")
    min_tokens: int = Field(default=8192, gt=0, description="shorter texts are read densely")
    last_queries: int = Field(default=64, gt=0, description="queries that the estimate is made from")
    sinks: int = Field(default=30, ge=0, description="first keys that are always among the verticals")
    local: int = Field(default=100, gt=0, description="nearest distances that are always among the slashes")
    searched_tokens: int = Field(default=0, ge=0, description="length of the sample text")
    recall: float = Field(default=1.0, description="mean attention kept there")
    read: float = Field(default=1.0, description="share of its query-key pairs that were read")

    def write(self, folder: Path) -> None:
        (folder / FILE).write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read_from(cls, folder: Path, config: ModelConfig) -> Self | None:
        """None where the checkpoint has no such file; ModelFormatError where it does not fit the model."""
        path = folder / FILE
        if not path.exists():
            return None
        try:
            found = cls.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValidationError) as error:
            raise ModelFormatError(f"{path}: {error}") from error
        shape = [config.num_attention_heads] * config.num_hidden_layers
        if [len(heads) for heads in found.budgets] != shape:
            raise ModelFormatError(
                f"{path}: its {len(found.budgets)} layers of budgets do not fit the {len(shape)} layers of {shape[0]} "
                "heads in config.json"
            )
        return found

    def reader(self, model: "Transformer") -> "Reader":
        return Reader(self, estimate_shifts(model.config), shift_by(model.frequencies))


@dataclass
class Reader:
    """Attention of a prefill that reads what the budgets allow; counts what it read."""

    plan: SparsePrefill
    shifts: tuple[int, int] | None
    shift: Shift
    pairs: int = 0
    """Query-key pairs read."""
    all_pairs: int = 0
    """Those of dense causal attention."""

    def __call__(
        self, layer: int, queries: tuple[Tensor, ...], key: Tensor, value: Tensor, position: int, chunk_length: int
    ) -> Tensor:
        """One text: queries 3 x (N, T, D) from ``position`` on over 2 x (K, S, D) -> (N, T, D)."""
        done = []
        for first, end in pieces(position, key.shape[1], chunk_length):
            mine = tuple(query[:, first - position : end - position] for query in queries)
            done.append(self._piece(layer, mine, key[:, :end], value[:, :end], first, chunk_length))
        return torch.cat(done, dim=1)

    def _piece(
        self, layer: int, queries: tuple[Tensor, ...], key: Tensor, value: Tensor, first: int, chunk_length: int
    ) -> Tensor:
        heads, tokens, _ = queries[0].shape
        share = heads // key.shape[0]
        output = torch.empty_like(queries[0])
        dense = tokens * first + tokens * (tokens + 1) // 2
        starts = torch.arange(first, first + tokens, BLOCK, device=key.device)
        for group in range(key.shape[0]):
            mine = range(group * share, (group + 1) * share)
            selections = self._selections(layer, mine, queries, key[group], first, chunk_length)
            for head, selection in zip(mine, selections, strict=True):
                own = tuple(query[head] for query in queries)
                pairs = dense if selection is None else int(selection.keys_read(starts).sum()) * BLOCK
                if selection is None or pairs > DENSE_SHARE * dense:
                    one = tuple(query[None] for query in own)
                    output[head] = attend_run(one, key[group, None], value[group, None], first, chunk_length)[0][0]
                    pairs = dense
                else:
                    output[head], _ = attend_selected(own, key[group], value[group], first, chunk_length, selection)
                self.pairs += pairs
                self.all_pairs += dense
        return output

    def _selections(
        self, layer: int, heads: range, queries: tuple[Tensor, ...], key: Tensor, first: int, chunk_length: int
    ) -> list[Selection | None]:
        budgets = [self.plan.budgets[layer][head] for head in heads]
        if key.shape[0] < self.plan.min_tokens or not any(budgets):
            return [None] * len(heads)
        rows = slice(-min(self.plan.last_queries, queries[0].shape[1]), None)
        last = tuple(query[heads.start : heads.stop, rows] for query in queries)
        begin = key.shape[0] - last[0].shape[1]
        vertical, slash = scores(last, key, begin, chunk_length, self.shifts, self.shift)
        return [
            None if budget is None else select(v, s, budget, sinks=self.plan.sinks, local=self.plan.local)
            for budget, v, s in zip(budgets, vertical, slash, strict=True)
        ]


def estimate_shifts(config: ModelConfig) -> tuple[int, int] | None:
    """How far the estimate turns queries on towards the chunk before and earlier ones: as published, unclamped."""
    chunking = config.dual_chunk_attention
    return None if chunking is None else (chunking.chunk_length, chunking.chunk_size)


def shift_by(frequencies: Tensor) -> Shift:
    """Turns rotated queries on by a number of positions."""

    def shift(query: Tensor, by: int) -> Tensor:
        cos, sin = rotation(torch.tensor([by], device=query.device), frequencies, 1.0)
        return rotate(query, cos.to(query.dtype), sin.to(query.dtype))

    return shift
