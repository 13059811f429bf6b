"""Hypothesis: decoding is several times as fast as the peer, and one text of the 0.5B shape is written at 0.7 of the
speed that reading every weight once a token allows.

Peer: ``transformers`` ``generate`` with the same weights, its dynamic cache, greedy, no stop token. Both take turns in
one process, so that a busy machine slows both. With one thread the clock counts the process's own CPU seconds, so that
waiting for a core does not count; with more it is the wall's.

    qwenforge bench generation --shape pocket --batch 1 16 --threads 1
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from infra.hardware import describe_host
from model.checkpoint import save_model
from model.config import PUBLISHED, ModelConfig
from model.generation import Engine, generate
from model.transformer import Transformer

SHAPES = {
    "pocket": ModelConfig(
        vocab_size=8192, hidden_size=256, intermediate_size=704, num_hidden_layers=6, num_attention_heads=8,
        num_key_value_heads=2, max_position_embeddings=2048, tie_word_embeddings=True,
    ),
    "0.5b": PUBLISHED["0.5b"],
}  # fmt: skip


def measure_decode(
    shape: str = "pocket", batch: int = 16, *, prompt_tokens: int = 64, new_tokens: int = 64, repeats: int = 5
) -> dict[str, Any]:
    """Tokens a second of ours and of the peer while ``batch`` texts are written, after their prompts are read.

    Each repeat times answers of 1 and of ``1 + new_tokens`` tokens on both sides; the difference is decoding. Medians.
    """
    from transformers import AutoModelForCausalLM

    config = SHAPES[shape]
    model = Transformer(config).init_weights(0).eval()
    with TemporaryDirectory() as folder:
        save_model(folder, model)
        peer = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    engine = Engine(model, max_running=batch)
    del model
    source = torch.Generator().manual_seed(1)
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    bandwidths = []
    for repeat in range(repeats + 1):
        # other prompts for each call: the engine would not read the same one twice
        short, long = torch.randint(config.vocab_size, (2, batch, prompt_tokens), generator=source)
        ours = _timed(partial(_ours, engine), short, long, new_tokens)
        theirs = _timed(partial(_peer, peer), short, long, new_tokens)
        if repeat:  # the first is a warm-up
            seconds["ours"].append(ours)
            seconds["peer"].append(theirs)
            bandwidths.append(_read_bandwidth())
    rates = {side: batch * new_tokens / statistics.median(values) for side, values in seconds.items()}
    read = 4 * (config.num_parameters() - (0 if config.tie_word_embeddings else config.vocab_size * config.hidden_size))
    bound = statistics.median(bandwidths) / read  # tokens a second of one text
    return {
        "shape": shape,
        "batch": batch,
        "threads": torch.get_num_threads(),
        "clock": "cpu" if torch.get_num_threads() == 1 else "wall",
        "tokens_per_second": round(rates["ours"], 2),
        "peer_tokens_per_second": round(rates["peer"], 2),
        "ratio": round(statistics.median(p / o for o, p in zip(seconds["ours"], seconds["peer"], strict=True)), 2),
        "read_gb_per_second": round(statistics.median(bandwidths) / 1e9, 1),
        "share_of_bandwidth_bound": round(rates["ours"] / batch / bound, 2),
    }


def _timed(write: Callable[[Tensor, int], object], short: Tensor, long: Tensor, new_tokens: int) -> float:
    """Seconds that ``new_tokens`` more tokens take."""
    now = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    begin = now()
    write(short, 1)
    first = now()
    write(long, 1 + new_tokens)
    return (now() - first) - (first - begin)


def _ours(engine: Engine, prompts: Tensor, count: int) -> None:
    generate(engine, prompts.tolist(), max_new_tokens=count)


def _peer(model: Any, prompts: Tensor, count: int) -> None:
    model.generate(
        prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=count, min_new_tokens=count, do_sample=False,
        eos_token_id=None, pad_token_id=0,
    )  # fmt: skip


def _read_bandwidth() -> float:
    """Bytes a second of summing more numbers than any cache holds."""
    numbers = torch.ones(64 * 1024 * 1024)
    now = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    begin = now()
    for _ in range(3):
        numbers.sum()
    return 3 * numbers.nbytes / (now() - begin)


def sentence(result: dict[str, Any]) -> str:
    """What ``measure_decode`` found, for people."""
    return (
        f"decode, {result['shape']} at {result['batch']}: {result['tokens_per_second']:,} tokens/s, transformers "
        f"{result['peer_tokens_per_second']:,}, ratio {result['ratio']}; "
        f"{result['share_of_bandwidth_bound']} of the bound that {result['read_gb_per_second']} GB/s set "
        f"({result['threads']} threads, {result['clock']} clock)"
    )


def main(arguments: list[str] | None = None) -> int:
    """Print one line a batch size, and write a dated JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="pocket")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path, help="write the result here")
    given = parser.parse_args(arguments)
    if given.threads:
        torch.set_num_threads(given.threads)
    results = []
    for batch in given.batch:
        result = measure_decode(
            given.shape, batch, prompt_tokens=given.prompt_tokens, new_tokens=given.new_tokens, repeats=given.repeats
        )  # fmt: skip
        results.append(result)
        print(sentence(result))
    if given.json:
        facts = {"date": datetime.now(UTC).date().isoformat(), "host": describe_host(), "decode": results}
        given.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
