"""The budgets of a sparse prefill (``model.sparse_prefill``), found on a sample text.

The text is read densely, and every head is asked which budgets would have kept how much of its attention (recall: the
mass on the keys that are read) and read how many keys (the cost). Then heads are raised from their cheapest budget, the
one that gains most recall for its cost first, until every head reaches the recall that is asked for or the cost is
spent (after MInference, arXiv 2407.02490, and the refinement in the Qwen2.5-1M report, arXiv 2501.15383).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from model.dual_chunk import attend_run, pieces
from model.sparse_prefill import DENSE_SHARE, SparsePrefill, estimate_shifts, shift_by
from model.vertical_slash import BLOCK, Budget, Shift, logits, scores, select

if TYPE_CHECKING:
    from model.transformer import Transformer

CANDIDATES = tuple(
    Budget(verticals, slashes) for verticals in (30, 100, 300, 1000, 3000) for slashes in (100, 200, 400, 800, 1600)
)
SAMPLED_BLOCKS = 16
"""Blocks of queries that recall is measured on."""


def search(
    model: "Transformer", ids: Tensor, *, recall: float = 0.95, read: float = 1.0,
    candidates: Sequence[Budget] = CANDIDATES, **settings: int,
) -> SparsePrefill:  # fmt: skip
    """Budgets for ``model`` from a sample text ``ids`` (T,), as long as the prompts that matter.

    ``recall``: attention that each head should keep. ``read``: share of the query-key pairs that all heads together
    may read. ``settings``: further fields of SparsePrefill. A head that no candidate serves reads everything.
    """
    config = model.config
    heads, layers = config.num_attention_heads, config.num_hidden_layers
    blank = SparsePrefill(budgets=(), searched_tokens=ids.numel(), **settings)
    tallies = _observe(model, ids, blank, [[list(candidates)] * heads] * layers)
    fronts = [_front([t.read for t in head], [t.recall for t in head]) for layer in tallies for head in layer]
    chosen = _raise_heads(fronts, recall, read * len(fronts))
    budgets = iter(None if choice.candidate is None else candidates[choice.candidate] for choice in chosen)
    return blank.model_copy(
        update={
            "budgets": tuple(tuple(next(budgets) for _ in range(heads)) for _ in range(layers)),
            "recall": sum(choice.recall for choice in chosen) / len(chosen),
            "read": sum(choice.read for choice in chosen) / len(chosen),
        }
    )


def measure(model: "Transformer", ids: Tensor) -> tuple[Tensor, Tensor]:
    """Recall and share of pairs read of each head, 2 x (layers, N), with the model's own budgets on ``ids`` (T,)."""
    plan = model.sparse_prefill
    if not isinstance(plan, SparsePrefill):
        raise ValueError("the model has no sparse prefill: search for its budgets first")
    candidates = [[[] if budget is None else [budget] for budget in layer] for layer in plan.budgets]
    tallies = _observe(model, ids, plan, candidates)
    recall = torch.tensor([[head[0].recall if head else 1.0 for head in layer] for layer in tallies])
    return recall, torch.tensor([[head[0].read if head else 1.0 for head in layer] for layer in tallies])


@dataclass
class _Tally:
    """Of one candidate."""

    budget: Budget
    blocks: int = 0
    """Of queries that were looked at."""
    kept: float = 0.0
    """Mean attention kept of their queries, summed over blocks."""
    read_keys: int = 0
    all_keys: int = 0

    @property
    def recall(self) -> float:
        return self.kept / self.blocks

    @property
    def read(self) -> float:
        return min(1.0, self.read_keys / self.all_keys)


@dataclass
class _Observer:
    """Reads densely, and notes for each head what its candidates would have kept and read."""

    plan: SparsePrefill
    tallies: list[list[list[_Tally]]]
    """By layer, head and candidate."""
    shifts: tuple[int, int] | None
    shift: Shift
    min_tokens: int = 0

    def reader(self, model: "Transformer") -> "_Observer":
        return self

    def __call__(
        self, layer: int, queries: tuple[Tensor, ...], key: Tensor, value: Tensor, position: int, chunk_length: int
    ) -> Tensor:
        share = queries[0].shape[0] // key.shape[0]
        for head in range(queries[0].shape[0]):
            tallies = self.tallies[layer][head]
            for first, end in pieces(position, key.shape[1], chunk_length):
                own = tuple(query[head : head + 1, first - position : end - position] for query in queries)
                if end - first >= BLOCK:
                    self._observe(tallies, own, key[head // share, :end], first, chunk_length)
        return attend_run(queries, key, value, position, chunk_length)[0]

    def _observe(
        self, tallies: list["_Tally"], queries: tuple[Tensor, ...], key: Tensor, first: int, chunk_length: int
    ) -> None:
        tokens, plan = queries[0].shape[1], self.plan
        rows = min(plan.last_queries, tokens)
        last = tuple(query[:, -rows:] for query in queries)
        vertical, slash = scores(last, key, key.shape[0] - rows, chunk_length, self.shifts, self.shift)
        blocks = torch.linspace(0, tokens // BLOCK - 1, min(SAMPLED_BLOCKS, tokens // BLOCK)).long()
        starts = first + blocks * BLOCK
        mass = torch.zeros(len(starts), key.shape[0])
        for row, start in zip(mass, starts.tolist(), strict=True):
            block = tuple(query[:, start - first : start - first + BLOCK] for query in queries)
            shares = logits(block, key[: start + BLOCK], start, chunk_length).softmax(dim=-1)
            row[: start + BLOCK] = shares[0].mean(dim=0)
        for tally in tallies:
            selection = select(vertical[0], slash[0], tally.budget, sinks=plan.sinks, local=plan.local)
            tally.blocks += len(starts)
            tally.kept += float((mass * selection.seen(starts, key.shape[0])).sum())
            tally.read_keys += int(selection.keys_read(starts).sum())
            tally.all_keys += int((starts + BLOCK).sum())


@torch.inference_mode()
def _observe(
    model: "Transformer", ids: Tensor, plan: SparsePrefill, candidates: list[list[list[Budget]]]
) -> list[list[list[_Tally]]]:
    if ids.numel() < 2 * BLOCK:
        raise ValueError(f"a sample text of {ids.numel()} tokens is too short: take at least {2 * BLOCK}")
    tallies = [[[_Tally(budget) for budget in head] for head in layer] for layer in candidates]
    observer = _Observer(plan, tallies, estimate_shifts(model.config), shift_by(model.frequencies))
    before, model.sparse_prefill = model.sparse_prefill, observer
    try:
        model(ids.view(1, -1))
    finally:
        model.sparse_prefill = before
    return tallies


@dataclass(frozen=True)
class _Choice:
    read: float
    recall: float
    candidate: int | None
    """None: everything is read."""


def _front(read: list[float], recall: list[float]) -> list[_Choice]:
    """The candidates of one head that no cheaper one equals, from cheap to dear; at the end, everything."""
    front: list[_Choice] = []
    for index in sorted(range(len(read)), key=lambda index: (read[index], -recall[index])):
        if read[index] < DENSE_SHARE and (not front or recall[index] > front[-1].recall):
            front.append(_Choice(read[index], recall[index], index))
    return [*front, _Choice(1.0, 1.0, None)]


def _raise_heads(fronts: list[list[_Choice]], recall: float, allowed: float) -> list[_Choice]:
    """One choice a head: the cheapest, then the best gain for its cost again and again."""
    chosen = [front[0] for front in fronts]
    spent = sum(choice.read for choice in chosen)
    while True:
        best: tuple[float, int, _Choice] | None = None
        for head, (choice, front) in enumerate(zip(chosen, fronts, strict=True)):
            if choice.recall >= recall:
                continue
            for other in front:
                cost = other.read - choice.read
                if cost <= 0 or spent + cost > allowed:
                    continue
                gain = (min(other.recall, recall) - choice.recall) / cost
                if gain > 0 and (best is None or gain > best[0]):
                    best = gain, head, other
        if best is None:
            return chosen
        _, head, other = best
        spent += other.read - chosen[head].read
        chosen[head] = other
