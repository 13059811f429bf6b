"""Hypothesis: direct preference optimisation goes through pairs 1.5 times as fast as TRL.

Peer: TRL's DPOTrainer with the same weights, pairs, batch, beta, optimizer and precision; both compute the reference's
log-probabilities as part of the run. In turns of whole runs over all pairs: ours is the stage with all that it records,
measures on held-out pairs and writes; of TRL only ``train()`` counts, without its preparation of the data.

    qwenforge bench dpo [--json FILE]
"""

import argparse
import json
import random
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

from benchmarks.harness import Step, ratio, take_turns
from benchmarks.post_training import FAMILIES, WINDOW, Folder, quiet, run_in, write_base

BATCH, BETA, RATE, BETA2 = 16, 0.1, 1e-4, 0.95


def main(arguments: list[str] | None = None) -> int:
    """Print pairs/s of both; write the figures to ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=128, help="a run")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures here")
    given = parser.parse_args(arguments)
    with TemporaryDirectory() as name:
        folder = Path(name)
        _write_pairs(folder, write_base(folder / "base"), given.pairs)
        found = take_turns(
            {"TRL": (trl_run, (folder,)), "ours": (our_run, (folder,))},
            turns=given.turns, steps=1, threads=given.threads,
        )  # fmt: skip
    theirs, ours = found["TRL"], found["ours"]
    if abs(theirs.first - ours.first) > 0.1 * theirs.first:  # the pairs come in another order
        raise SystemExit(f"mean losses differ, ours {ours.first} and TRL's {theirs.first}: nothing to compare")
    times, low, high = ratio(theirs, ours)
    result = {
        "pairs_per_second": given.pairs / ours.median,
        "pairs_per_second_trl": given.pairs / theirs.median,
        "times": times,
        "times_quartiles": [low, high],
        "loss": ours.first,
        "loss_trl": theirs.first,
    }
    for key, value in result.items():
        print(f"{key.replace('_', ' ')}: {value}")
    if given.json:
        from infra.hardware import describe_host

        given.json.write_text(json.dumps({"host": describe_host(), **result}, indent=1) + "\n")
    return 0


def _write_pairs(folder: Path, base: Path, count: int) -> None:
    """Right answers against wrong ones, and against those of a wrong form; a few are held out."""
    from components.preference.pair_store import Pair, write_pairs
    from components.sft.tasks import generate, misformat, mistake, solution

    rng, pairs = random.Random(0), []
    for index in range(count + 4):
        problem = generate(FAMILIES[index % len(FAMILIES)], rng)
        chosen = solution(problem, rng)
        rejected = mistake(problem, rng) if index % 2 else misformat(chosen, rng)
        split = "train" if index < count else "heldout"
        pairs.append(Pair(f"{index}-0", split, problem.family, problem.messages, chosen, rejected, 1.0, 0.0))
    (folder / "pairs").mkdir()
    write_pairs(folder / "pairs", pairs)


def our_run(folder: Path, idle: Callable[[], None]) -> Step:
    from components.preference.dpo import DPOConfig, train_dpo

    idle()
    config = DPOConfig(
        batch_size=BATCH, sequence_length=WINDOW, beta=BETA, merging="none", learning_rate=RATE, schedule="constant",
        warmup_ratio=0.0, beta2=BETA2, checkpoint_every=1000, log_every=1000,
    )  # fmt: skip
    base = Folder(folder / "base")
    inputs = {"policy": base, "base": base, "pairs": Folder(folder / "pairs")}

    def step() -> float:
        return train_dpo(config, inputs, run_in(Path(mkdtemp())))["final_loss"]

    return step


def trl_run(folder: Path, idle: Callable[[], None]) -> Step:
    from datasets import Dataset
    from transformers import AutoTokenizer, Qwen2ForCausalLM
    from trl import DPOConfig, DPOTrainer

    from components.preference.pair_store import read_pairs

    idle()
    pairs = read_pairs(folder / "pairs", "train")

    def answer(text: str) -> list[dict[str, str]]:
        return [{"role": "assistant", "content": text}]

    rows = [{"prompt": p.messages, "chosen": answer(p.chosen), "rejected": answer(p.rejected)} for p in pairs]
    config = DPOConfig(
        output_dir=mkdtemp(), per_device_train_batch_size=BATCH, num_train_epochs=1, beta=BETA, learning_rate=RATE,
        lr_scheduler_type="constant", weight_decay=0.0, adam_beta2=BETA2, max_grad_norm=1.0, optim="adamw_torch_fused",
        use_cpu=True, bf16=False, gradient_checkpointing=False,
        logging_steps=1000, save_strategy="no", report_to=[], log_level="error",
        disable_tqdm=True, seed=0,
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")

    trainer = DPOTrainer(
        Qwen2ForCausalLM.from_pretrained(folder / "base"), args=config, train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )  # fmt: skip

    quiet(trainer)

    def step() -> float:
        return trainer.train().training_loss

    return step


if __name__ == "__main__":
    raise SystemExit(main())
