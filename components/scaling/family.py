"""Runs of a sweep that differ in their number of tokens alone: they share all of their training but the decay.

With a warm-up of a fixed length and WSD (constant rate, then decay; Hagele et al. 2024, arXiv 2405.18392) a run of D
tokens and one of 2 D are the same up to where the shorter one begins to decay. So the longest is trained as a trunk
that keeps its state at those points, and each of the others is resumed from there, to the weights that it would have
reached alone. With D, 2 D and 4 D that takes 65% of the updates.
"""

import hashlib
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from components.scaling.law import SweepPoint
from components.scaling.shapes import StudyShape
from components.scaling.trial import WINDOWS_PER_DOMAIN
from components.stage import QuietRun, StageError
from components.training.config import TrainingConfig

if TYPE_CHECKING:
    from torch import Tensor

    from components.data.shard_reader import ShardReader


@dataclass(frozen=True)
class Family:
    """A shape, rate and batch size, trained on each of ``tokens``: what decides the results, where they are kept."""

    shards: Path
    state: Path
    seed: int
    device: str
    threads: int
    vocab_size: int
    sequence_length: int
    shape: StudyShape
    tokens: tuple[int, ...]
    batch_tokens: int
    warmup_tokens: int
    training: TrainingConfig

    @property
    def name(self) -> str:
        facts = repr(replace(self, shards=Path(), state=Path(), device="", threads=0))
        return f"family-{hashlib.sha256(facts.encode()).hexdigest()[:16]}"

    @property
    def batch_size(self) -> int:
        return max(1, round(self.batch_tokens / self.sequence_length))

    def steps(self, tokens: int) -> int:
        """Updates of the run of ``tokens`` tokens."""
        return max(2, round(tokens / (self.batch_size * self.sequence_length)))

    def config(self, tokens: int) -> TrainingConfig:
        """Of that run: its warm-up takes as many updates as everybody's."""
        warmup = max(1, round(self.warmup_tokens / (self.batch_size * self.sequence_length)))
        ratio = min(1.0, warmup / self.steps(tokens))
        return self.training.model_copy(update={"schedule": "wsd", "warmup_ratio": ratio})

    def stable(self, tokens: int) -> int:
        """Updates of that run before its decay; 0 where its warm-up does not end before."""
        steps, config = self.steps(tokens), self.config(tokens)
        before = steps - max(1, round(config.decay_ratio * steps))
        return before if before >= round(config.warmup_ratio * steps) else 0


def run_family(family: Family) -> list[SweepPoint]:
    """Train every run, the longest first; a loss is infinite where training diverged. What is done is not repeated."""
    import torch

    from components.data.shard_reader import ShardReader
    from components.training.language_modelling import uniform_batches

    threads = torch.get_num_threads()
    if family.threads:
        torch.set_num_threads(family.threads)
    reader = ShardReader(family.shards)
    batches = uniform_batches(reader, family.seed, family.batch_size, family.sequence_length, family.device)
    longest, *others = sorted(family.tokens, reverse=True)
    branches = {tokens: family.stable(tokens) for tokens in others}
    try:
        points = [_run(family, longest, reader, batches, keep_at=[step for step in branches.values() if step])]
        for tokens, step in branches.items():
            points.append(_run(family, tokens, reader, batches, (longest, step) if step else None))
    finally:
        torch.set_num_threads(threads)  # a single family runs in the process of the stage
    shutil.rmtree(family.state / f"{family.name}.work", ignore_errors=True)
    return points


def _run(
    family: Family, tokens: int, reader: "ShardReader", batches: "Callable[[int], Tensor]",
    branch: tuple[int, int] | None = None, keep_at: Sequence[int] = (),
) -> SweepPoint:  # fmt: skip
    """The run of ``tokens`` tokens; ``branch``: the trunk's tokens, and the number of its updates to go on after."""
    from components.training.checkpoint import write_atomically
    from components.training.language_modelling import held_out_loss, next_token_loss
    from components.training.loop import train
    from model.transformer import Transformer

    done = family.state / f"{family.name}-{tokens}.json"
    if done.exists():
        return SweepPoint.model_validate_json(done.read_text(encoding="utf-8"))
    work = family.state / f"{family.name}.work"
    shape = family.shape.model(family.vocab_size, family.sequence_length)
    model = Transformer(shape).init_weights(family.seed).to(family.device)
    if branch:
        _begin_at(work / str(tokens), work / str(branch[0]), branch[1])
    loss = math.inf
    try:
        train(
            model, next_token_loss, batches, config=family.config(tokens), steps=family.steps(tokens),
            run=QuietRun(work, work, family.seed, family.device), name=str(tokens), keep_at=keep_at,
        )  # fmt: skip
        loss = held_out_loss(model, reader, family.sequence_length, WINDOWS_PER_DOMAIN)
    except StageError:
        pass  # it diverged, which is a result
    point = SweepPoint(
        parameters=family.shape.active,
        tokens=tokens,
        learning_rate=family.training.learning_rate,
        batch_tokens=family.batch_size * family.sequence_length,
        loss=loss if math.isfinite(loss) else math.inf,
    )
    write_atomically(done, point.model_dump_json().encode())
    return point


def _begin_at(folder: Path, trunk: Path, step: int) -> None:
    """Let the run in ``folder`` go on from the trunk's state after ``step`` updates, unless it has gone on already.

    Without such a state (the trunk diverged before) it begins at the beginning.
    """
    from components.training.checkpoint import steps_of

    if steps_of(folder) or step not in steps_of(trunk):
        return
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"step-{step:08d}"
    shutil.copyfile(trunk / f"{stem}.pt", folder / f"{stem}.pt")
    shutil.copyfile(trunk / f"{stem}.json", folder / f"{stem}.json")  # last: the state is whole with it


__all__ = ["Family", "run_family"]
