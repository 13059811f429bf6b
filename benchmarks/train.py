"""Hypothesis: the training loop, with all that it records, goes through 1.4 times as many tokens as the Hugging Face
Trainer in 0.6 of its memory, and loader and records cost under 2% of a step.

Peer: transformers' Trainer around transformers' Qwen2: same shape, initial weights, tokens, batch, precision and
optimizer (torch's fused AdamW, decay on matrices alone). The two take turns of one update each, so that a neighbour on
the machine slows both. Ours reads packed shards, watches, keeps its flight recorder and sends its metrics to an MLflow
in a file, as a stage does; the Trainer's data lie in memory and it reports to nobody.

    qwenforge bench train [--shape pocket] [--json FILE]
"""

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

from benchmarks.harness import Measured, Pace, Step, ratio, take_turns
from benchmarks.model import BATCHES, SHAPES, _write_weights
from benchmarks.post_training import Clock, PacedRun, quiet

RATE, DECAY, BETA2 = 1e-4, 0.1, 0.95
LOG_EVERY = 10
TARGETS = {"times": 1.4, "memory_ratio": 0.6, "overhead": 0.02}


def main(arguments: list[str] | None = None) -> int:
    """Print tokens/s and peak memory of both, and what loader and records cost; write the figures to ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=tuple(SHAPES), default="pocket")
    parser.add_argument("--turns", type=int, default=20, help="updates of each side that are timed, 10 at least")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures here")
    given = parser.parse_args(arguments)
    if given.turns < LOG_EVERY:
        parser.error(f"--turns: expected {LOG_EVERY} at least, which is what both sides average their losses over")
    updates = given.turns + 1
    with TemporaryDirectory() as name:
        folder = Path(name)
        weights = _write_weights(folder / "weights", given.shape)
        shards = _write_shards(folder / "shards", given.shape, updates)
        found = take_turns(
            {
                "Trainer": (trainer_run, (weights, shards, given.shape, updates)),
                "ours": (our_run, (weights, shards, given.shape, updates)),
            },
            turns=given.turns, steps=1, threads=given.threads,
        )  # fmt: skip
    result = _result(found["Trainer"], found["ours"], given.shape)
    for key, value in result.items():
        target = f" (target {TARGETS[key]})" if key in TARGETS else ""
        print(f"{key.replace('_', ' ')}: {value}{target}")
    if given.json:
        from infra.hardware import describe_host

        given.json.write_text(
            json.dumps({"host": describe_host(), "threads": given.threads, **result}, indent=1) + "\n"
        )
    return 0


def _result(theirs: Measured, ours: Measured, shape: str) -> dict[str, Any]:
    their_losses, (our_losses, seconds) = theirs.last, ours.last
    before = ours.first[1]
    mean_loss = sum(our_losses[:LOG_EVERY]) / LOG_EVERY
    if abs(their_losses[0] - mean_loss) > 1e-3 * mean_loss:
        raise SystemExit(f"losses differ, {their_losses[0]} and {mean_loss}: nothing to compare")
    batch, length = BATCHES[shape]
    times, low, high = ratio(theirs, ours)
    total = sum(ours.seconds)
    overhead = {part: (spent - before.get(part, 0.0)) / total for part, spent in sorted(seconds.items())}
    memory, memory_trainer = (side.peak_bytes - side.idle_bytes for side in (ours, theirs))
    return {
        "shape": shape,
        "tokens_per_second": batch * length / ours.median,
        "tokens_per_second_trainer": batch * length / theirs.median,
        "times": times,
        "times_quartiles": [low, high],
        "memory_bytes": memory,
        "memory_bytes_trainer": memory_trainer,
        "memory_ratio": memory / memory_trainer,
        "overhead": sum(overhead.values()),
        "overhead_by_part": overhead,
        "updates": len(ours.seconds),
    }


@dataclass
class RecordedRun(PacedRun):
    """A run whose metrics go to MLflow."""

    tracked: Any = None

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        self.tracked.log_metrics(values, step)


def our_run(weights: Path, shards: Path, shape: str, updates: int, idle: Callable[[], None]) -> Step:
    from components.data.shard_reader import ShardReader
    from components.training import engine, loop, recorder, telemetry, watch
    from components.training.config import TrainingConfig
    from components.training.language_modelling import next_token_loss, uniform_batches
    from infra.tracking.operations import Operations
    from infra.tracking.tracking import Tracking
    from model.checkpoint import load_model

    folder, clock = Path(mkdtemp()), Clock()
    tracking = Tracking(f"sqlite:///{folder / 'mlflow.db'}", artifact_root=folder / "files", patience=120.0)
    tracked = tracking.start_recipe_run("bench")
    idle()
    for part, owner, names in (
        ("telemetry", telemetry.Telemetry, ("mark",)),
        ("telemetry", engine.TorchEngine, ("_copied", "_measure")),
        ("telemetry", loop._Training, ("_close_window",)),
        ("watch", watch.Watch, ("judge",)),
        ("watch", recorder.FlightRecorder, ("note",)),
        ("MLflow's thread", Operations, ("perform",)),
    ):
        for name in names:
            timed = clock.timed(part, getattr(owner, name))
            setattr(owner, name, staticmethod(timed) if name == "_copied" else timed)
    batch, length = BATCHES[shape]
    config = TrainingConfig(
        learning_rate=RATE, weight_decay=DECAY, schedule="constant", warmup_ratio=0.0, beta2=BETA2, log_every=LOG_EVERY,
        checkpoint_every=10 * updates,
    )  # fmt: skip
    model = load_model(weights)
    batch_at = clock.timed("loader", uniform_batches(ShardReader(shards), 0, batch, length, "cpu"))
    losses: list[float] = []

    def objective(model: Any, tokens: Any) -> Any:
        loss, metrics = next_token_loss(model, tokens)
        losses.append(loss.item())
        return loss, metrics

    def work(pace: Pace) -> None:
        run = RecordedRun(folder, folder, seed=0, ceiling=1.0, pace=pace, tracked=tracked)
        loop.train(model, objective, batch_at, config=config, steps=updates + 1, run=run, flops_per_token=1.0)

    pace = Pace(work)

    def step() -> tuple[list[float], dict[str, float]]:
        pace.step()
        return list(losses), dict(clock.seconds)

    return step


def trainer_run(weights: Path, shards: Path, shape: str, updates: int, idle: Callable[[], None]) -> Step:
    from transformers import Qwen2ForCausalLM, Trainer, TrainerCallback, TrainingArguments

    from components.data.shard_reader import ShardReader
    from components.training.language_modelling import mark_padding

    idle()
    batch, length = BATCHES[shape]
    reader = ShardReader(shards)
    windows = [row for step in range(updates + 1) for row in reader.batch(0, step, batch, length)]
    rows = []
    for row in windows:
        marked = mark_padding(row[None], reader.eos_id)[0]
        rows.append({"input_ids": marked.clamp(min=0), "labels": marked.masked_fill(marked < 0, -100)})
    losses: list[float] = []

    class Waits(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            pace.wait()

        def on_log(self, arguments: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if "loss" in logs:
                losses.append(float(logs["loss"]))

    arguments = TrainingArguments(
        output_dir=mkdtemp(), per_device_train_batch_size=batch, max_steps=updates + 1, learning_rate=RATE,
        weight_decay=DECAY, adam_beta2=BETA2, max_grad_norm=1.0, lr_scheduler_type="constant",
        optim="adamw_torch_fused", logging_steps=LOG_EVERY, save_strategy="no", report_to=[], disable_tqdm=True,
        use_cpu=True, train_sampling_strategy="sequential",
    )  # fmt: skip
    model = Qwen2ForCausalLM.from_pretrained(weights)
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, callbacks=[Waits()])  # type: ignore[arg-type]
    quiet(trainer)
    pace = Pace(lambda _: trainer.train())

    def step() -> list[float]:
        pace.step()
        return list(losses)

    return step


def _write_shards(folder: Path, shape: str, updates: int) -> Path:
    """Documents of random tokens as the stage ``shards`` lays them out, enough for every update's own windows."""
    import numpy as np

    batch, length = BATCHES[shape]
    rng, end = np.random.default_rng(0), SHAPES[shape]["vocab_size"] - 1
    sizes = rng.integers(length // 4, 2 * length, size=2 * batch * (updates + 2))
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    tokens = rng.integers(0, end, size=offsets[-1]).astype(np.uint32)
    tokens[offsets[1:] - 1] = end
    folder.mkdir()
    tokens.tofile(folder / "train.bin")
    np.save(folder / "train.offsets.npy", offsets)
    facts = {
        "vocab_size": end + 1,
        "eos_id": end,
        "dtype": "uint32",
        "train": {"tokens": len(tokens)},
        "validation": {},
    }
    (folder / "shards.json").write_text(json.dumps(facts))
    return folder


if __name__ == "__main__":
    raise SystemExit(main())
