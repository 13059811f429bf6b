"""Hypothesis: a training run that is killed at any instant, checkpoint writes included, ends in the same weights.

One training run of a small decoder is ended by SIGKILL again and again: half of the kills at a random instant, half
while a checkpoint is being written. After each, every checkpoint that is marked as whole must be readable, and no more
may be repeated than the steps since the checkpoint before the one under way. At the end the weights are compared, bit
by bit, with those of a run that nobody touched.

    qwenforge bench kills --kills 100 [--json FILE]
"""

import argparse
import json
import multiprocessing
import os
import random
import time
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from components.stage import QuietRun

INTERVAL = 10  # steps between checkpoints


def main(given: list[str] | None = None) -> int:
    """Print what the kills did; exit code 1 when anything that must hold did not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--steps", type=int, default=0, help="updates of the run; 0: about two checkpoints a kill")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the result here")
    arguments = parser.parse_args(given)
    steps = arguments.steps or 2 * INTERVAL * arguments.kills
    import torch  # before any fork: the children find it imported

    torch.set_num_threads(1)
    rng = random.Random(arguments.seed)
    with TemporaryDirectory() as name:
        expected = finish(Path(name) / "undisturbed", steps)
        folder = Path(name) / "killed"
        kills = []
        while len(kills) < arguments.kills:
            kill = one_kill(folder, steps, rng, in_write=bool(len(kills) % 2))
            if kill is None:
                break  # the run has ended before
            kills.append(kill)
        equal = finish(folder, steps) == expected
    result = {
        "kills": len(kills),
        "in_checkpoint_writes": sum(kill["in_write"] for kill in kills),
        "steps": steps,
        "interval": INTERVAL,
        "identical_weights": equal,
        "unreadable_checkpoints": sum(kill["unreadable"] for kill in kills),
        "most_steps_repeated": max((kill["repeated"] for kill in kills), default=0),
        "checkpoints_lost_beyond_the_one_under_way": sum(kill["lost"] for kill in kills),
    }
    for key, value in result.items():
        print(f"{key.replace('_', ' ')}: {value}")
    if arguments.json:
        arguments.json.write_text(json.dumps(result | {"date": datetime.now(UTC).date().isoformat()}, indent=1) + "\n")
    bad = not equal or result["unreadable_checkpoints"] or result["checkpoints_lost_beyond_the_one_under_way"]
    return 1 if bad else 0


def finish(folder: Path, steps: int) -> bytes:
    """Run to the end; the final weights."""
    process = _start(folder, steps)
    process.join()
    if process.exitcode:
        raise SystemExit(f"the run ended with exit code {process.exitcode}")
    return (folder / "weights").read_bytes()


def one_kill(folder: Path, steps: int, rng: random.Random, *, in_write: bool) -> dict[str, Any] | None:
    """Start or go on, kill, look at what is left; None where the run ended before it was killed."""
    from components.training.checkpoint import read_state, steps_of

    state = folder / "state" / "training"
    process = _start(folder, steps)
    if in_write:
        while process.is_alive() and not any(state.glob("*.tmp")):
            time.sleep(0.0002)
        time.sleep(rng.uniform(0, 0.004))
    else:
        time.sleep(rng.uniform(0.05, 1.5))
    caught = any(state.glob("*.tmp")) if state.exists() else False
    process.kill()
    process.join()
    if process.exitcode == 0:
        return None
    marked = steps_of(state)
    readable = [step for step in marked if read_state(state, step) is not None]
    begun = int((folder / "begun").read_text() or 0) if (folder / "begun").exists() else 0
    resume = readable[-1] if readable else 0
    return {
        "in_write": caught, "unreadable": len(marked) - len(readable), "repeated": begun - resume,
        "lost": resume < (begun // INTERVAL - 1) * INTERVAL,
    }  # fmt: skip


def _start(folder: Path, steps: int) -> Any:
    process = multiprocessing.get_context("fork").Process(target=_train, args=(folder, steps))
    process.start()
    return process


def _train(folder: Path, steps: int) -> None:
    import torch

    from components.training.config import TrainingConfig
    from components.training.language_modelling import copying_batch, next_token_loss
    from components.training.loop import train
    from model.config import ModelConfig
    from model.transformer import Transformer

    shape = ModelConfig(
        vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=True,
    )  # fmt: skip
    model = Transformer(shape).init_weights(0)
    run = QuietRun(folder / "output", folder / "state", seed=0)
    for needed in (run.output, run.state):
        needed.mkdir(parents=True, exist_ok=True)
    begun = os.open(folder / "begun", os.O_CREAT | os.O_WRONLY)

    def batch_at(step: int) -> torch.Tensor:
        os.pwrite(begun, f"{step:>12}".encode(), 0)
        return copying_batch(0, step, 4, 32, 511)

    config = TrainingConfig(learning_rate=1e-3, checkpoint_every=INTERVAL, log_every=INTERVAL)
    train(model, next_token_loss, batch_at, config=config, steps=steps, run=run)
    weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    (folder / "weights").write_bytes(weights.numpy().tobytes())


if __name__ == "__main__":
    raise SystemExit(main())
