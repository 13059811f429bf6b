"""Hypothesis: the model trains, reads and writes faster than transformers' Qwen2, and trains in half the memory where
the vocabulary is large.

Peer: transformers, same weights, same tokens, same optimizer (torch's fused AdamW), in turns. Shapes: ``pocket`` (256
wide, 6 layers, 8/2 heads, FFN 704, 8,192 rows) and ``large-vocabulary`` (the 0.5B model cut to 4 of its 24 layers, with
all 151,936 rows), trained on one window of 4,096 tokens, the length of the report's first phase. Writing is measured as
``qwenforge bench generation`` does, at batch 1 and 16.

    qwenforge bench model [--json FILE]
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.harness import Measured, Step, copy_ceiling, ratio, take_turns

SHAPES: dict[str, dict[str, int]] = {
    "pocket": {
        "vocab_size": 8192, "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 6,
        "num_attention_heads": 8, "num_key_value_heads": 2, "max_position_embeddings": 4096,
    },
    "large-vocabulary": {
        "vocab_size": 151_936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 4,
        "num_attention_heads": 14, "num_key_value_heads": 2, "max_position_embeddings": 4096,
    },
}  # fmt: skip
BATCHES = {"pocket": (8, 512), "large-vocabulary": (1, 4096)}
WORK = ("training", "prefill", "decode")
STEPS = {"pocket": 2, "large-vocabulary": 1}


def main(arguments: list[str] | None = None) -> int:
    """Print a table a kind of work; write the figures to ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", nargs="+", choices=WORK, default=list(WORK))
    parser.add_argument("--shapes", nargs="+", choices=tuple(SHAPES), default=list(SHAPES))
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures here")
    given = parser.parse_args(arguments)

    import torch

    from infra.hardware import describe_host, measure_matmul_ceiling

    torch.set_num_threads(given.threads)
    console = Console()
    ceiling, bandwidth = measure_matmul_ceiling(seconds=2.0, device="cpu"), copy_ceiling()
    console.print(f"ceilings: {ceiling / 1e9:.0f} GFLOP/s matrix products, {bandwidth / 1e9:.1f} GB/s reads")
    rows = []
    with TemporaryDirectory() as folder:
        for shape in given.shapes:
            weights = _write_weights(Path(folder) / shape, shape)
            if "training" in given.work:
                rows.append(_training(shape, weights, given.turns, given.threads, ceiling))
            if "prefill" in given.work:
                rows += [_prefill(shape, weights, b, given.turns, given.threads, ceiling) for b in (1, 16)]
    console.print(_table(rows))
    decode = []
    if "decode" in given.work:
        from benchmarks.generation import measure_decode, sentence

        # The bandwidth bound says something where weights exceed the caches, so one text is also written by the 0.5B.
        for shape, batch in (("pocket", 1), ("pocket", 16), ("0.5b", 1)):
            decode.append(measure_decode(shape, batch))
            console.print(sentence(decode[-1]))
    if given.json:
        result = {
            "host": describe_host(),
            "ceilings": {"flops": ceiling, "bytes": bandwidth},
            "rows": rows,
            "decode": decode,
        }
        given.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def _write_weights(folder: Path, shape: str) -> Path:
    """A checkpoint with random weights that both sides load."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(**SHAPES[shape], tie_word_embeddings=True, use_cache=False)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


def _training(shape: str, weights: Path, turns: int, threads: int, ceiling: float) -> dict[str, Any]:
    found = take_turns(
        {"transformers": (train_transformers, (weights, shape)), "ours": (train_ours, (weights, shape))},
        turns=turns, steps=STEPS[shape], threads=threads,
    )  # fmt: skip
    theirs, ours = found["transformers"], found["ours"]
    if abs(theirs.first - ours.first) > 1e-4 * abs(theirs.first):
        raise SystemExit(f"{shape}: losses differ, {theirs.first} and {ours.first}: nothing to compare")
    batch, length = BATCHES[shape]
    flops = 3 * batch * length * _forward_flops(shape, length, head=True)
    return _row("training", shape, batch, batch * length, flops, ceiling, theirs, ours)


def _prefill(shape: str, weights: Path, batch: int, turns: int, threads: int, ceiling: float) -> dict[str, Any]:
    found = take_turns(
        {"transformers": (read_transformers, (weights, batch)), "ours": (read_ours, (weights, batch))},
        turns=turns, steps=STEPS[shape], threads=threads,
    )  # fmt: skip
    length = 512
    flops = batch * (length * _forward_flops(shape, length, head=False) + _head_flops(shape))
    return _row("prefill", shape, batch, batch * length, flops, ceiling, found["transformers"], found["ours"])


def _row(
    work: str, shape: str, batch: int, tokens: int, flops: float, ceiling: float, theirs: Measured, ours: Measured
) -> dict[str, Any]:
    faster, low, high = ratio(theirs, ours)
    return {
        "work": work, "shape": shape, "batch": batch, "tokens_per_second": tokens / ours.median,
        "tokens_per_second_transformers": tokens / theirs.median, "times": faster, "times_quartiles": [low, high],
        "share_of_ceiling": flops / ours.median / ceiling,
        "share_of_ceiling_transformers": flops / theirs.median / ceiling,
        "memory_bytes": ours.peak_bytes - ours.idle_bytes,
        "memory_bytes_transformers": theirs.peak_bytes - theirs.idle_bytes,
    }  # fmt: skip


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="ours | transformers")
    for column in ("work", "shape", "batch", "tokens/s", "times as fast", "share of ceiling", "memory, GB", "ratio"):
        table.add_column(column, justify="left" if column in ("work", "shape") else "right")
    for row in rows:
        memory, other = row["memory_bytes"], row["memory_bytes_transformers"]
        low, high = row["times_quartiles"]
        table.add_row(
            row["work"], row["shape"], str(row["batch"]),
            f"{row['tokens_per_second']:,.0f} | {row['tokens_per_second_transformers']:,.0f}",
            f"{row['times']:.2f} ({low:.2f} to {high:.2f})",
            f"{row['share_of_ceiling']:.0%} | {row['share_of_ceiling_transformers']:.0%}",
            f"{memory / 1e9:.2f} | {other / 1e9:.2f}", f"{memory / other:.2f}",
        )  # fmt: skip
    return table


def _forward_flops(shape: str, length: int, *, head: bool) -> float:
    """Multiply-adds of a token's forward pass, twice: matrices, and attention over half the length on average."""
    s = SHAPES[shape]
    hidden = s["hidden_size"]
    key_value = hidden * s["num_key_value_heads"] // s["num_attention_heads"]
    layer = 2 * hidden * hidden + 2 * hidden * key_value + 3 * hidden * s["intermediate_size"]
    attention = 2 * hidden * length / 2
    return 2 * s["num_hidden_layers"] * (layer + attention) + (_head_flops(shape) if head else 0)


def _head_flops(shape: str) -> float:
    return 2.0 * SHAPES[shape]["hidden_size"] * SHAPES[shape]["vocab_size"]


# ---- contenders: each returns the function that makes one step, and calls ``idle`` once its imports are done --------


def _tokens(shape: str) -> Any:
    import torch

    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, SHAPES[shape]["vocab_size"], BATCHES[shape], generator=generator)


def train_transformers(weights: Path, shape: str, idle: Callable[[], None]) -> Step:
    import torch
    from transformers import Qwen2ForCausalLM

    idle()
    model = Qwen2ForCausalLM.from_pretrained(weights, dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    tokens = _tokens(shape)

    def step() -> float:
        loss = model(tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def train_ours(weights: Path, shape: str, idle: Callable[[], None]) -> Step:
    import torch

    from model.checkpoint import load_model
    from model.loss import IGNORE, cross_entropy

    idle()
    model = load_model(weights, "cpu").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    tokens = _tokens(shape)
    labels = torch.cat((tokens[:, 1:], torch.full_like(tokens[:, :1], IGNORE)), dim=1)

    def step() -> float:
        total, count = cross_entropy(model(tokens), model.output_weight, labels)
        loss = total / count
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def _prompts(vocabulary: int, batch: int) -> Any:
    import torch

    return torch.randint(0, vocabulary, (batch, 512), generator=torch.Generator().manual_seed(1))


def read_transformers(weights: Path, batch: int, idle: Callable[[], None]) -> Step:
    import torch
    from transformers import Qwen2ForCausalLM

    idle()
    model = Qwen2ForCausalLM.from_pretrained(weights, dtype=torch.float32).eval()
    prompts = _prompts(model.config.vocab_size, batch)

    def step() -> int:
        with torch.inference_mode():
            return int(model(prompts, use_cache=True, logits_to_keep=1).logits[0, -1].argmax())

    return step


def read_ours(weights: Path, batch: int, idle: Callable[[], None]) -> Step:
    import torch

    from model.cache import KVCache
    from model.checkpoint import load_model

    idle()
    model = load_model(weights, "cpu").eval()
    prompts = _prompts(model.config.vocab_size, batch)

    def step() -> int:
        with torch.inference_mode():
            hidden = model(prompts, cache=KVCache(model.config, batch, prompts.shape[1]))
            return int(model.logits(hidden[:, -1])[0].argmax())

    return step


if __name__ == "__main__":
    raise SystemExit(main())
