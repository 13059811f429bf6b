"""What the benchmarks of post-training share: a policy of the pocket shape, tasks, our stages made to take turns."""

import json
import random
import sysconfig
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness import Pace, clock
from benchmarks.model import SHAPES
from components.stage import QuietRun, Summary

FAMILIES = ("json", "repeat", "tagged")
WINDOW = 256
"""Tokens of a packed window, as in recipes/pocket.toml."""


@dataclass(frozen=True)
class Folder:
    """A ``components.stage.Artifact`` that nobody has stored."""

    path: Path
    kind: str = "checkpoint"
    digest: str = "0" * 64
    summary: Summary = field(default_factory=dict)


@dataclass
class PacedRun(QuietRun):
    """A stage's run that waits after every update of its training."""

    pace: Pace | None = None

    def advance(self, amount: int = 1, **fields: float | str) -> None:
        if self.pace is not None and amount:
            self.pace.wait()


class Clock:
    """Seconds by name of what it was put around."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._now = clock()

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            begin = self._now()
            try:
                return function(*arguments, **options)
            finally:
                self.seconds[name] += self._now() - begin

        return call


def run_in(folder: Path, pace: Pace | None = None) -> PacedRun:
    """A run with folders of its own."""
    run = PacedRun(folder / "output", folder / "state", seed=0, ceiling=1.0, pace=pace)
    run.output.mkdir(parents=True)
    run.state.mkdir(parents=True)
    return run


def write_base(folder: Path) -> Path:
    """A checkpoint of random weights whose tokenizer has learnt its 8,192 tokens from the standard library."""
    from model.checkpoint import save_model
    from model.config import ModelConfig
    from model.tokenizer import Tokenizer
    from model.transformer import Transformer

    library = Path(sysconfig.get_path("stdlib"))
    texts = (file.read_text(encoding="utf-8", errors="replace") for file in sorted(library.glob("*.py")))
    tokenizer = Tokenizer.train(texts, SHAPES["pocket"]["vocab_size"])
    shape: dict[str, Any] = SHAPES["pocket"]
    model = Transformer(ModelConfig(**shape, tie_word_embeddings=True)).init_weights(0)
    save_model(folder, model, tokenizer)
    return folder


def write_conversations(folder: Path, base: Path, **sizes: int) -> Path:
    """Problems of three families, by the real stage; ``sizes``: ``sft_per_family`` and so on."""
    from components.sft.conversations import ConversationsConfig, make_conversations

    few: dict[str, Any] = {
        "sft_per_family": 1,
        "preference_per_family": 1,
        "rl_per_family": 1,
        "heldout_per_family": 4,
    } | sizes
    run = run_in(folder)
    config = ConversationsConfig(families=FAMILIES, **few)
    make_conversations(config, {"tokenizer": Folder(base)}, run)
    return run.output


def prepare_rl(folder: Path, *, queries: int, teach: int, threads: int, heldout: int = 12) -> None:
    """For reinforcement learning: the inputs of ``rl_inputs``, and in ``order.json`` the queries in a random order.

    The policy has seen ``teach`` updates of supervised fine-tuning, and knows the form of an answer by half.
    """
    import torch

    from components.preference.reward_scoring import RewardModel, save_reward_model
    from components.sft.fine_tune import SFTConfig, fine_tune
    from model.checkpoint import load_model
    from model.tokenizer import Tokenizer

    torch.set_num_threads(threads)
    base = write_base(folder / "base")
    conversations = write_conversations(
        folder / "talks",
        base,
        sft_per_family=teach * 12,
        rl_per_family=-(-queries // 3),
        heldout_per_family=-(-heldout // 3),
    )
    config = SFTConfig(
        epochs=1, sequence_length=WINDOW, batch_size=8, optimizer="muon", learning_rate=4e-3, beta2=0.98,
        evaluation_prompts=1, checkpoint_every=1000,
    )  # fmt: skip
    run = run_in(folder / "policy")
    fine_tune(config, {"long": Folder(base), "conversations": Folder(conversations)}, run)
    reward = run_in(folder / "reward")
    model = RewardModel(load_model(run.output)).init_head(0)  # of weight 0 here, but the stage wants one
    save_reward_model(reward, model, Tokenizer.load(base), [], WINDOW, mean=0.0, std=1.0)
    (folder / "order.json").write_text(json.dumps(random_order(folder, 0)))


def random_order(folder: Path, seed: int) -> list[int]:
    """Of the queries of ``prepare_rl``."""
    from components.sft.conversation_store import read_conversations

    order = list(range(len(read_conversations(folder / "talks" / "output", "rl"))))
    random.Random(seed).shuffle(order)
    return order


def rl_inputs(folder: Path) -> dict[str, Folder]:
    """Of the stage ``grpo``."""
    return {
        "policy": Folder(folder / "policy" / "output"), "reward": Folder(folder / "reward" / "output"),
        "conversations": Folder(folder / "talks" / "output"),
    }  # fmt: skip


def same_prompts(ours: list[list[int]], theirs: list[list[int]]) -> None:
    """Ends the benchmark where the two sides would not read the same tokens."""
    if ours != theirs:
        raise SystemExit("the prompts' tokens differ: nothing to compare")


def quiet(trainer: Any) -> None:
    """Without its own lines among the benchmark's."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
