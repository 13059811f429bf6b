"""Hypothesis: supervised fine-tuning goes through tokens 1.5 times as fast as TRL with packing.

Peer: TRL's SFTTrainer with the same weights, conversations, window, windows an update, optimizer and precision, loss
on answers alone. TRL packs as we do (``bfd``: whole conversations that do not see each other), or cuts one long text
into windows (``wrapped``: they do). Updates in turns; tokens are those of conversations, without padding.

    qwenforge bench sft [--json FILE]
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

from benchmarks.harness import Measured, Pace, Step, ratio, take_turns
from benchmarks.post_training import WINDOW, Folder, quiet, run_in, write_base, write_conversations

BATCH, RATE, BETA2 = 8, 1e-4, 0.95
STRATEGIES = ("bfd", "wrapped")


def main(arguments: list[str] | None = None) -> int:
    """Print tokens/s of all; write the figures to ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--updates", type=int, default=4, help="a turn")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures here")
    given = parser.parse_args(arguments)
    updates = given.turns * given.updates + 2
    with TemporaryDirectory() as name:
        folder = Path(name)
        base = write_base(folder / "base")
        write_conversations(folder / "talks", base, sft_per_family=updates * 16)
        contenders: dict[str, Any] = {f"TRL {s}": (trl_run, (folder, updates, s)) for s in STRATEGIES}
        contenders["ours"] = (our_run, (folder, updates))
        found = take_turns(contenders, turns=given.turns, steps=given.updates, threads=given.threads)
    ours = found["ours"]
    result: dict[str, Any] = {"tokens_per_second": _rate(ours), "loss": ours.first[0]}
    for strategy in STRATEGIES:
        theirs = found[f"TRL {strategy}"]
        if abs(theirs.first[0] - ours.first[0]) > 0.02 * theirs.first[0]:  # other conversations come first
            raise SystemExit(f"first losses differ, {theirs.first[0]} and {ours.first[0]}: nothing to compare")
        per_step, low, high = ratio(theirs, ours)
        # an update's tokens differ a little, with how full the windows are
        share = ours.last[1] / theirs.last[1]
        result[strategy] = {
            "tokens_per_second_trl": _rate(theirs), "loss_trl": theirs.first[0], "times": per_step * share,
            "times_quartiles": [low * share, high * share],
        }  # fmt: skip
    for key, value in result.items():
        print(f"{key.replace('_', ' ')}: {value}")
    if given.json:
        from infra.hardware import describe_host

        given.json.write_text(json.dumps({"host": describe_host(), **result}, indent=1) + "\n")
    return 0


def _rate(measured: Measured) -> float:
    """Tokens a second: a step's mean tokens over its median seconds."""
    _, tokens, updates = measured.last
    return tokens / updates / measured.median


def our_run(folder: Path, updates: int, idle: Callable[[], None]) -> Step:
    from components.sft.fine_tune import SFTConfig, fine_tune

    idle()
    config = SFTConfig(
        epochs=1, sequence_length=WINDOW, batch_size=BATCH, learning_rate=RATE, schedule="constant", warmup_ratio=0.0,
        weight_decay=0.0, beta2=BETA2, evaluation_prompts=1, checkpoint_every=10 * updates, log_every=1,
    )  # fmt: skip
    inputs = {"long": Folder(folder / "base"), "conversations": Folder(folder / "talks" / "output")}
    losses: list[float] = []
    tokens: list[float] = []

    def work(pace: Pace) -> None:
        run = run_in(Path(mkdtemp()), pace)
        run.metrics = lambda values, step=None: (losses.append(values["loss"]), tokens.append(values["tokens"]))  # type: ignore[method-assign]
        fine_tune(config, inputs, run)

    pace = Pace(work)

    def step() -> tuple[float, float, int]:
        pace.step()
        return losses[0], tokens[-1], len(tokens)

    return step


def trl_run(folder: Path, updates: int, strategy: str, idle: Callable[[], None]) -> Step:
    from datasets import Dataset
    from transformers import AutoTokenizer, Qwen2ForCausalLM, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from components.sft.conversation_store import read_conversations

    idle()
    talks = read_conversations(folder / "talks" / "output", "sft")
    rows = [{"prompt": talk.prompt, "completion": talk.messages[-1:]} for talk in talks]
    config = SFTConfig(
        output_dir=mkdtemp(), per_device_train_batch_size=BATCH, max_length=WINDOW, packing=True,
        packing_strategy=strategy, completion_only_loss=True, max_steps=updates, learning_rate=RATE,
        lr_scheduler_type="constant", weight_decay=0.0, adam_beta2=BETA2, max_grad_norm=1.0, optim="adamw_torch_fused",
        use_cpu=True, bf16=False, gradient_checkpointing=False, logging_steps=1, save_strategy="no", report_to=[],
        log_level="error", disable_tqdm=True, seed=0,
    )  # fmt: skip
    losses: list[float] = []
    tokens = [0]

    class Waits(TrainerCallback):
        def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:  # after every update
            losses.append(logs["loss"])
            pace.wait()

    trainer = SFTTrainer(
        Qwen2ForCausalLM.from_pretrained(folder / "base"), args=config, train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(folder / "base"), callbacks=[Waits()],
    )  # fmt: skip
    quiet(trainer)
    collate = trainer.data_collator

    def counted(examples: Any) -> Any:
        tokens.append(tokens[-1] + sum(len(example["input_ids"]) for example in examples))
        return collate(examples)

    trainer.data_collator = counted
    pace = Pace(lambda _: trainer.train())

    def step() -> tuple[float, float, int]:
        pace.step()
        return losses[0], float(tokens[len(losses)]), len(losses)  # batches are read ahead of their updates

    return step


if __name__ == "__main__":
    raise SystemExit(main())
