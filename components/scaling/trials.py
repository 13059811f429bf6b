"""The runs of a sweep as a set: made from its config, run together, extended where an optimum is at the edge."""

from collections import defaultdict
from collections.abc import Sequence

from components.data.pool import available_workers, map_shards
from components.data.shard_reader import ShardReader
from components.scaling.law import SweepPoint
from components.scaling.sweep import ScalingConfig, SweepShape
from components.scaling.trial import Trial, run_trial
from components.stage import Artifact, Run
from components.training.config import TrainingConfig

MAX_WIDENINGS = 3


class Trials:
    """Runs of ``config``'s shapes on ``shards``."""

    def __init__(self, config: ScalingConfig, shards: Artifact, run: Run) -> None:
        self._config, self._shards, self._run = config, shards.path, run
        self._vocab_size = ShardReader(shards.path).vocab_size
        self._training = TrainingConfig(**config.model_dump(include=set(TrainingConfig.model_fields)))
        self.sizes = {self.make(shape, 1, 1.0, 1).size: shape for shape in config.shapes}
        """Non-embedding parameters of every shape."""

    def make(self, shape: SweepShape, tokens: int, learning_rate: float, batch_tokens: int) -> Trial:
        return Trial(
            shards=self._shards, state=self._run.state, seed=self._run.seed, device=self._run.device,
            vocab_size=self._vocab_size, sequence_length=self._config.sequence_length, shape=shape, tokens=tokens,
            batch_tokens=batch_tokens, training=self._training.model_copy(update={"learning_rate": learning_rate}),
        )  # fmt: skip

    def run(self, trials: Sequence[Trial], name: str) -> list[SweepPoint]:
        """Train them all; one that an earlier attempt has finished is read."""
        points: list[SweepPoint] = []
        # On a CPU small runs scale with processes better than with threads; on an accelerator they take turns.
        workers = available_workers() if self._run.device == "cpu" else 1
        with self._run.progress(len(trials), name, unit="run") as bar:
            for point in map_shards(run_trial, trials, workers):
                points.append(point)
                bar.advance(1, loss=round(point.loss, 3))
                self._run.metrics({f"{name}_loss": point.loss}, step=len(points))
        return points

    def widen(self, points: list[SweepPoint], name: str) -> list[SweepPoint]:
        """``points`` and runs beyond them, until no (N, D) has its best rate at the edge of those tried."""
        for _ in range(MAX_WIDENINGS):
            beyond = [
                self.make(self.sizes[best.parameters], best.tokens, rate, best.batch_tokens)
                for best, rate in edges(points)
            ]
            if not beyond:
                break
            points = points + self.run(beyond, name)
        return points


def edges(points: Sequence[SweepPoint]) -> list[tuple[SweepPoint, float]]:
    """For each (N, D) whose best run has the lowest or highest rate of its batch size: that run and the next rate."""
    cells: dict[tuple[int, int], list[SweepPoint]] = defaultdict(list)
    for point in points:
        cells[point.parameters, point.tokens].append(point)
    beyond = []
    for cell in cells.values():
        best = min(cell, key=lambda point: point.loss)
        rates = sorted({point.learning_rate for point in cell if point.batch_tokens == best.batch_tokens})
        if len(rates) > 1 and best.learning_rate == rates[-1]:
            beyond.append((best, rates[-1] ** 2 / rates[-2]))
        elif len(rates) > 1 and best.learning_rate == rates[0]:
            beyond.append((best, rates[0] ** 2 / rates[1]))
    return beyond
