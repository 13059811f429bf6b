"""The runs of a study on the processors of this machine: one shape's sweep, and the sweep around a prediction."""

import json
from collections import defaultdict
from collections.abc import Sequence
from itertools import product

from components.data.pool import available_workers, map_shards
from components.data.shard_reader import ShardReader
from components.scaling.family import Family, run_family
from components.scaling.law import SweepPoint
from components.scaling.shapes import StudyShape
from components.scaling.study import RunsConfig, SweepConfig
from components.stage import Artifact, Inputs, Run, Summary, effect
from components.training.config import TrainingConfig


class Runs:
    """Families of one shape on ``shards``."""

    def __init__(self, config: RunsConfig, shape: StudyShape, shards: Artifact, run: Run) -> None:
        self.config, self.shape, self.run = config, shape, run
        self._shards, self._vocab_size = shards.path, ShardReader(shards.path).vocab_size
        self._training = TrainingConfig(**config.model_dump(include=set(TrainingConfig.model_fields)))
        # On a CPU small runs scale with processes better than with threads; on an accelerator they take turns.
        self._workers = available_workers() if run.device == "cpu" else 1

    def flops(self, points: Sequence[SweepPoint]) -> float:
        """Of training each of them alone."""
        model = self.shape.model(self._vocab_size, self.config.sequence_length)
        each = model.training_flops_per_token(self.config.sequence_length)
        return each * sum(point.tokens for point in points)

    def of(self, settings: Sequence[tuple[float, int]], tokens: Sequence[int], name: str) -> list[SweepPoint]:
        """A family for each (learning rate, batch tokens); of an earlier attempt is read what it has finished."""
        families = [
            Family(
                shards=self._shards, state=self.run.state, seed=self.run.seed, device=self.run.device,
                threads=1 if self.run.device == "cpu" else 0, vocab_size=self._vocab_size,
                sequence_length=self.config.sequence_length, shape=self.shape, tokens=tuple(tokens),
                batch_tokens=batch, warmup_tokens=self.config.warmup_tokens,
                training=self._training.model_copy(update={"learning_rate": rate}),
            )
            for rate, batch in settings
        ]  # fmt: skip
        points: list[SweepPoint] = []
        with self.run.progress(len(families) * len(tokens), name, unit="run") as bar:
            for found in map_shards(run_family, families, self._workers):
                points += found
                bar.advance(len(found), loss=round(min(point.loss for point in found), 3))
                self.run.metrics({f"{name}_loss": min(point.loss for point in found)}, step=len(points))
        return points


def sweep_shape(config: SweepConfig, inputs: Inputs, run: Run) -> Summary:
    """See ``components.scaling.study.sweep_shape``."""
    runs = Runs(config, config.shape, inputs["shards"], run)
    # The smallest batches take the longest: first, so that no worker is left with one at the end.
    points = runs.of([(rate, batch) for batch, rate in product(config.batch_tokens, config.learning_rates)],
                     config.tokens, f"sweep {config.shape.label}")  # fmt: skip
    for _ in range(config.most_widenings):
        if not (settings := beyond(points, config.sequence_length)):
            break
        points += runs.of(settings, config.tokens, f"beyond {config.shape.label}")
    run.output.joinpath("points.json").write_text(
        json.dumps([point.model_dump() for point in points], indent=1), encoding="utf-8"
    )
    finite = [point.loss for point in points if point.loss < float("inf")]
    return {
        "parameters": config.shape.total,
        "active_parameters": config.shape.active,
        "runs": len(points),
        "diverged": len(points) - len(finite),
        "tokens": sum(point.tokens for point in points),
        "flops": runs.flops(points),
        "effects": [
            effect(
                f"held-out loss, best of {len(points)} runs of {config.shape.label} against their mean", min(finite),
                sum(finite) / len(finite), unit="nats a token", better="lower",
            )
        ] if finite else [],
    }  # fmt: skip


def beyond(points: Sequence[SweepPoint], least_batch: int) -> list[tuple[float, int]]:
    """(learning rate, batch tokens) to try next: beyond the rates at whose edge a D does best, else beyond the batches.

    Batches follow the largest D alone, which is nearest to what is predicted: smaller ones cost most and tell least.
    """
    cells: dict[int, list[SweepPoint]] = defaultdict(list)
    for point in points:
        cells[point.tokens].append(point)
    tried = {(point.learning_rate, point.batch_tokens) for point in points}
    found: list[tuple[float, int]] = []
    for tokens in sorted(cells, reverse=True):
        best = min(cells[tokens], key=lambda point: point.loss)
        batches = sorted({batch for _, batch in tried})
        rates = sorted({rate for rate, batch in tried if batch == best.batch_tokens})
        if (rate := next_value(rates, best.learning_rate)) is not None:
            found.append((rate, best.batch_tokens))
        elif (
            tokens == max(cells)
            and (batch := next_value(batches, best.batch_tokens)) is not None
            and batch >= least_batch
        ):
            at = rates.index(best.learning_rate)
            found += [(rate, round(batch)) for rate in rates[max(0, at - 1) : at + 2]]
    return [setting for setting in dict.fromkeys(found) if setting not in tried]


def next_value(values: Sequence[float], best: float) -> float | None:
    """The value that follows where ``best`` is the last or the first of ascending ones, by their ratio."""
    if len(values) < 2 or best not in (values[0], values[-1]):
        return None
    return values[-1] ** 2 / values[-2] if best == values[-1] else values[0] ** 2 / values[1]


__all__ = ["Runs", "beyond", "next_value", "sweep_shape"]
