"""Hypothesis: the longer the prompt, the more of attention a sparse prefill skips, and the sooner the first token is
there.

Peer: the same model reading densely, in turns. Without a checkpoint the weights are random and every head has the same
budget, so the times say what the work costs, and nothing about quality. With one, budgets are searched on the first
half of the text, and what they keep and cost is measured on the second.

    qwenforge bench sparse_prefill [--lengths 4096 8192 16384 32768] [--json FILE]
    qwenforge bench sparse_prefill --checkpoint DIR --text FILE --lengths 4096 8192 --recall 0.95
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from benchmarks.harness import Step, ratio, take_turns

if TYPE_CHECKING:
    from torch import Tensor

    from model.transformer import Transformer

SHAPE = {
    "vocab_size": 4096, "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 4,
    "num_attention_heads": 8, "num_key_value_heads": 2, "max_position_embeddings": 131_072,
}  # fmt: skip
BUDGET = (500, 120)


def main(arguments: list[str] | None = None) -> int:
    """Print a row for each length; write the figures to ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[4096, 8192, 16_384, 32_768])
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--text", type=Path, help="with --checkpoint: text of twice the greatest length")
    parser.add_argument("--recall", type=float, default=0.95, help="with --checkpoint: attention that a head keeps")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures here")
    given = parser.parse_args(arguments)
    if (given.checkpoint is None) != (given.text is None):
        parser.error("--checkpoint and --text go together")

    from infra.hardware import describe_host

    rows = []
    for length in given.lengths:
        plan, facts = None, dict[str, float]()
        if given.checkpoint is not None:
            plan, facts = _search(given.checkpoint, given.text, length, given.recall)
        where = (given.checkpoint, length, plan)
        found = take_turns(
            {"dense": (_reading, (*where, False)), "sparse": (_reading, (*where, True))},
            turns=given.turns, steps=1, threads=given.threads,
        )  # fmt: skip
        middle, low, high = ratio(found["dense"], found["sparse"])
        rows.append(
            {
                "tokens": length,
                "pairs_read": found["sparse"].first,
                "dense_seconds": found["dense"].median,
                "sparse_seconds": found["sparse"].median,
                "times_faster": middle,
                "quartiles": [low, high],
                **facts,
            }
        )
    _print(rows)
    if given.json:
        result = {"benchmark": "sparse_prefill", "host": describe_host(), "threads": given.threads, "rows": rows}
        given.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


def _print(rows: list[dict[str, Any]]) -> None:
    table = Table("tokens", "pairs read", "dense", "sparse", "times faster", "recall", "loss dense", "loss sparse")
    for row in rows:
        quality = [f"{row[name]:.4f}" if name in row else "" for name in ("recall", "dense_loss", "sparse_loss")]
        table.add_row(
            f"{row['tokens']:,}", f"{row['pairs_read']:.1%}", f"{row['dense_seconds']:.2f} s",
            f"{row['sparse_seconds']:.2f} s", f"{row['times_faster']:.2f}", *quality,
        )  # fmt: skip
    Console().print(table)


def _reading(checkpoint: Path | None, length: int, plan: str | None, sparse: bool, ready: Callable[[], None]) -> Step:
    """A step that reads one prompt and returns the share of query-key pairs that attention read."""
    import torch

    from model.config import ModelConfig
    from model.sparse_prefill import SparsePrefill
    from model.transformer import Transformer
    from model.vertical_slash import Budget

    ready()
    model = Transformer(ModelConfig.model_validate(SHAPE)).init_weights(0) if checkpoint is None else _load(checkpoint)
    budgets = ((Budget(*BUDGET),) * model.config.num_attention_heads,) * model.config.num_hidden_layers
    chosen = SparsePrefill(budgets=budgets, min_tokens=1) if plan is None else SparsePrefill.model_validate_json(plan)
    counted = _Counted(chosen)
    model.sparse_prefill = counted if sparse else None
    ids = torch.randint(SHAPE["vocab_size"], (1, length), generator=torch.Generator().manual_seed(0))

    def read() -> float:
        with torch.inference_mode():
            model.logits(model(ids)[:, -1])
        return counted.share if sparse else 1.0

    return read


class _Counted:
    """A plan that remembers what its last reader read."""

    def __init__(self, plan: Any) -> None:
        self.plan, self.min_tokens, self.last = plan, plan.min_tokens, None

    def reader(self, model: "Transformer") -> Any:
        self.last = self.plan.reader(model)
        return self.last

    @property
    def share(self) -> float:
        assert self.last is not None
        return self.last.pairs / self.last.all_pairs


def _load(checkpoint: Path) -> "Transformer":
    from model.checkpoint import load_model

    return load_model(checkpoint)


def _search(checkpoint: Path, text: Path, length: int, recall: float) -> tuple[str, dict[str, float]]:
    """Budgets as JSON, and what they keep and cost in another text of the same length."""
    import torch

    from model.prefill_search import measure, search
    from model.tokenizer import Tokenizer

    model = _load(checkpoint)
    ids = torch.tensor(Tokenizer.load(checkpoint).encode(text.read_text(encoding="utf-8")))
    if ids.numel() < 2 * length:
        raise SystemExit(f"{text} has {ids.numel():,} tokens: {2 * length:,} are needed")
    sample, other = ids[:length], ids[length : 2 * length]
    dense = _loss(model, other)
    model.sparse_prefill = search(model, sample, recall=recall, min_tokens=1)
    kept, _ = measure(model, other)
    facts = {"recall": float(kept.mean()), "dense_loss": dense, "sparse_loss": _loss(model, other)}
    return model.sparse_prefill.model_dump_json(), facts


def _loss(model: "Transformer", ids: "Tensor") -> float:
    """Nats a token."""
    import torch

    from model.loss import cross_entropy

    with torch.inference_mode():
        total, count = cross_entropy(model(ids[None])[0, :-1], model.output_weight, ids[1:])
    return float(total) / count


if __name__ == "__main__":
    raise SystemExit(main())
