"""One run of the sweep, in a process of its own. Its result is kept, so a killed sweep repeats no finished run."""

import hashlib
import math
from dataclasses import dataclass, replace
from pathlib import Path

from components.scaling.law import SweepPoint
from components.scaling.sweep import SweepShape
from components.stage import QuietRun, StageError
from components.training.config import TrainingConfig
from model.config import ModelConfig

WINDOWS_PER_DOMAIN = 4  # of held-out text: enough to rank runs, and no dearer than the shortest of them


@dataclass(frozen=True)
class Trial:
    """Everything that decides the result of a run, and where its result is kept."""

    shards: Path
    state: Path
    seed: int
    device: str
    vocab_size: int
    sequence_length: int
    shape: SweepShape
    tokens: int
    batch_tokens: int
    training: TrainingConfig

    @property
    def model(self) -> ModelConfig:
        return ModelConfig(
            vocab_size=self.vocab_size,
            max_position_embeddings=self.sequence_length,
            tie_word_embeddings=True,
            **self.shape.model_dump(),
        )

    @property
    def size(self) -> int:
        """N of the laws: non-embedding parameters."""
        return self.model.num_non_embedding_parameters()

    @property
    def name(self) -> str:
        facts = repr(replace(self, shards=Path(), state=Path()))
        return f"run-{hashlib.sha256(facts.encode()).hexdigest()[:16]}"


def run_trial(trial: Trial) -> SweepPoint:
    """Train ``trial.model`` and measure its held-out loss (infinite where training diverged)."""
    import torch

    from components.data.shard_reader import ShardReader
    from components.training.checkpoint import write_atomically
    from components.training.language_modelling import held_out_loss, next_token_loss, uniform_batches
    from components.training.loop import train
    from model.transformer import Transformer

    done = trial.state / f"{trial.name}.json"
    if done.exists():
        return SweepPoint.model_validate_json(done.read_text(encoding="utf-8"))
    threads = torch.get_num_threads()
    if trial.device == "cpu":
        torch.set_num_threads(1)  # other trials run beside this one
    reader = ShardReader(trial.shards)
    model = Transformer(trial.model).init_weights(trial.seed).to(trial.device)
    batch_size = max(1, round(trial.batch_tokens / trial.sequence_length))
    steps = max(1, round(trial.tokens / (batch_size * trial.sequence_length)))
    work = trial.state / f"{trial.name}.work"  # short enough to be repeated whole after a kill
    batches = uniform_batches(reader, trial.seed, batch_size, trial.sequence_length, trial.device)
    config = trial.training.model_copy(update={"checkpoint_every": steps})
    run = QuietRun(work, work, trial.seed, trial.device)
    try:
        train(model, next_token_loss, batches, config=config, steps=steps, run=run)
        loss = held_out_loss(model, reader, trial.sequence_length, WINDOWS_PER_DOMAIN)
    except StageError:
        loss = math.inf
    finally:
        torch.set_num_threads(threads)  # a single trial runs in the process of the stage
    point = SweepPoint(
        parameters=trial.size,
        tokens=trial.tokens,
        learning_rate=trial.training.learning_rate,
        batch_tokens=batch_size * trial.sequence_length,
        loss=loss if math.isfinite(loss) else math.inf,
    )
    write_atomically(done, point.model_dump_json().encode())
    return point
