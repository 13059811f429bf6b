"""Hypothesis: the training loop, with all that it records, is faster than the Hugging Face Trainer and takes no more
memory.

Peer: transformers' Trainer around transformers' Qwen2, same shape, same initial weights, same tokens, same batch, same
precision, same optimizer (torch's fused AdamW, decay on matrices alone), in turns of whole runs of a few steps.

    qwenforge bench train [--shape pocket] [--json FILE]
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

from benchmarks.harness import Step, ratio, take_turns
from benchmarks.model import BATCHES, SHAPES, _write_weights
from components.stage import QuietRun

STEPS = 10  # a run
RATE, DECAY = 1e-4, 0.1


def main(arguments: list[str] | None = None) -> int:
    """Print tokens/s and peak memory of both, and what the records cost; write the figures to ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=tuple(SHAPES), default="pocket")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures here")
    given = parser.parse_args(arguments)
    with TemporaryDirectory() as folder:
        weights = _write_weights(Path(folder) / given.shape, given.shape)
        found = take_turns(
            {
                "Trainer": (trainer_run, (weights, given.shape)),
                "ours": (our_run, (weights, given.shape)),
                "ours, no records": (bare_run, (weights, given.shape)),
            },
            turns=given.turns, steps=1, threads=given.threads,
        )  # fmt: skip
    theirs, ours, bare = found["Trainer"], found["ours"], found["ours, no records"]
    if abs(theirs.first - ours.first) > 1e-3 * abs(theirs.first):
        raise SystemExit(f"losses differ, {theirs.first} and {ours.first}: nothing to compare")
    batch, length = BATCHES[given.shape]
    tokens = STEPS * batch * length
    times, low, high = ratio(theirs, ours)
    result = {
        "shape": given.shape,
        "tokens_per_second": tokens / ours.median,
        "tokens_per_second_trainer": tokens / theirs.median,
        "times": times,
        "times_quartiles": [low, high],
        "memory_bytes": ours.peak_bytes - ours.idle_bytes,
        "memory_bytes_trainer": theirs.peak_bytes - theirs.idle_bytes,
        "records_cost": ratio(ours, bare)[0] - 1,
    }
    for key, value in result.items():
        print(f"{key.replace('_', ' ')}: {value}")
    if given.json:
        from infra.hardware import describe_host

        given.json.write_text(json.dumps({"host": describe_host(), **result}, indent=1) + "\n")
    return 0


def our_run(weights: Path, shape: str, idle: Callable[[], None]) -> Step:
    from components.training.loop import train

    return _ours(weights, shape, idle, train)


def bare_run(weights: Path, shape: str, idle: Callable[[], None]) -> Step:
    """The same updates with nothing around them: what telemetry, watch and recorder are measured against."""
    from torch import nn

    from components.training.optimizer import build_optimizer
    from components.training.schedule import learning_rate_at

    def train(
        model: nn.Module, objective: Any, batch_at: Any, *, config: Any, steps: int, run: Any, **_: Any
    ) -> list[dict[str, float]]:
        optimizer, total = build_optimizer(model, config), 0.0
        model.train()
        for step in range(steps):
            loss, _metrics = objective(model, batch_at(step))
            loss.backward()
            total += loss.item()
            nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate_at(step, steps, config)
            optimizer.step()
            optimizer.zero_grad()
        return [{"loss": total / steps}]

    return _ours(weights, shape, idle, train)


def _ours(weights: Path, shape: str, idle: Callable[[], None], train: Any) -> Step:
    from components.training.config import TrainingConfig
    from components.training.language_modelling import next_token_loss
    from model.checkpoint import load_model

    idle()
    tokens = _tokens(shape)
    config = TrainingConfig(
        learning_rate=RATE, weight_decay=DECAY, schedule="constant", warmup_ratio=0.0, beta2=0.95, log_every=STEPS,
        checkpoint_every=10 * STEPS,
    )  # fmt: skip
    model = load_model(weights)

    def step() -> float:
        folder = Path(mkdtemp())
        run = QuietRun(folder, folder, seed=0, ceiling=1.0)
        history = train(
            model, next_token_loss, lambda number: tokens[number], config=config, steps=STEPS, run=run,
            flops_per_token=1.0,
        )  # fmt: skip
        return history[-1]["loss"]

    return step


def trainer_run(weights: Path, shape: str, idle: Callable[[], None]) -> Step:
    from transformers import Qwen2ForCausalLM, Trainer, TrainingArguments

    idle()
    model = Qwen2ForCausalLM.from_pretrained(weights)
    tokens = _tokens(shape)
    rows = [{"input_ids": row, "labels": row} for step in tokens for row in step]
    arguments = TrainingArguments(
        output_dir=mkdtemp(), per_device_train_batch_size=BATCHES[shape][0], max_steps=STEPS, learning_rate=RATE,
        weight_decay=DECAY, adam_beta2=0.95, max_grad_norm=1.0, lr_scheduler_type="constant", optim="adamw_torch_fused",
        logging_steps=STEPS, save_strategy="no", report_to=[], disable_tqdm=True, use_cpu=True,
        train_sampling_strategy="sequential",
    )  # fmt: skip

    def step() -> float:
        return Trainer(model=model, args=arguments, train_dataset=rows).train().training_loss  # type: ignore[arg-type]

    return step


def _tokens(shape: str) -> Any:
    """(STEPS, batch, length + 1): the same for all."""
    import torch

    batch, length = BATCHES[shape]
    draw = torch.Generator().manual_seed(0)
    return torch.randint(SHAPES[shape]["vocab_size"], (STEPS, batch, length + 1), generator=draw)


if __name__ == "__main__":
    raise SystemExit(main())
