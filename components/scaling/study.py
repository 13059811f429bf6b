"""A scaling study: how good hyper-parameters and the loss depend on size and data, and whether that can be foretold.

Report, section 3.2. For each kind of model (dense, mixture of experts) there is a sweep of every size, a law that is
fitted to them all, and a larger model whose loss, learning rate and batch size the law predicts before anything of its
size has been trained. Each of these is a stage of its own, so that what is done stays done, whatever is added.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from components.scaling.shapes import StudyShape
from components.stage import Inputs, Run, StageConfig, Summary
from components.training.config import TrainingConfig

ModelKind = Literal["dense", "moe"]
DIRECT_RUNS = 6
"""Of the larger model: as predicted, twice and half the rate, twice and half the batch, and by default values."""


class RunsConfig(TrainingConfig):
    """What all runs of a study have in common."""

    schedule: Literal["wsd"] = "wsd"
    sequence_length: int = Field(256, ge=8)
    warmup_tokens: int = Field(20_000, ge=1, description="linear warm-up, the same for every number of tokens")


class SweepConfig(RunsConfig):
    """The runs of one shape: every combination, and those beyond the edges that turn out best."""

    shape: StudyShape
    tokens: tuple[int, ...] = Field(min_length=1, description="training tokens D of a run")
    learning_rates: tuple[float, ...] = Field(min_length=2, description="ascending, in equal ratios")
    batch_tokens: tuple[int, ...] = Field(min_length=1, description="ascending, in equal ratios")
    most_widenings: int = Field(2, ge=0, description="times that the grid grows where its edge does best")


class PredictConfig(StageConfig):
    """The law, and the larger model that it is put to the test with."""

    shape: StudyShape
    tokens: int = Field(ge=1)
    resamples: int = Field(100, ge=1, description="bootstrap fits behind every interval")


class HeldOutConfig(RunsConfig):
    """A small direct sweep around what was predicted."""

    shape: StudyShape
    tokens: int = Field(ge=1)
    default_learning_rate: float = Field(gt=0)
    default_batch_tokens: int = Field(ge=8)


class Sizes(StageConfig):
    """Models of one kind: those that are swept, and one at least four times as large that is not."""

    shapes: tuple[StudyShape, ...] = Field(min_length=2, description="ascending")
    held_out: StudyShape

    @model_validator(mode="after")
    def _shapes_differ(self) -> Self:
        labels = [shape.label for shape in self.shapes]  # which become names of stages
        if len(set(labels)) < len(labels):
            raise ValueError(f"shapes: expected another width or number of layers for each, got {', '.join(labels)}")
        return self

    @model_validator(mode="after")
    def _held_out_is_larger(self) -> Self:
        largest, goal = max(shape.active for shape in self.shapes), self.held_out.active
        if goal < 4 * largest:
            raise ValueError(
                f"held_out: expected at least 4 times the {largest:,} (active) parameters of the largest shape, "
                f"got {goal:,}"
            )
        return self


class StudyConfig(RunsConfig):
    """A sweep over (N, D, learning rate, batch size) of each kind of model."""

    tokens: tuple[int, ...] = Field(min_length=2, description="training tokens D of the fitted runs")
    learning_rates: tuple[float, ...] = Field(min_length=2, description="ascending, in equal ratios")
    batch_tokens: tuple[int, ...] = Field(min_length=2, description="tokens an update; ascending, in equal ratios")
    most_widenings: int = Field(2, ge=0, description="times that a grid grows where its edge does best")
    resamples: int = Field(100, ge=1, description="bootstrap fits behind every interval")
    held_out_tokens: int = Field(ge=1, description="training tokens of the larger model")
    default_learning_rate: float = Field(3e-4, gt=0, description="what one would take for it without a law")
    default_batch_tokens: int = Field(4096, ge=8, description="what one would take for it without a law")
    dense: Sizes
    moe: Sizes | None = None

    @property
    def kinds(self) -> dict[ModelKind, Sizes]:
        found: dict[ModelKind, Sizes] = {"dense": self.dense}
        return found | {"moe": self.moe} if self.moe else found

    def sweep_of(self, kind: ModelKind, index: int) -> SweepConfig:
        return SweepConfig(shape=self.kinds[kind].shapes[index], **self._values(SweepConfig))

    def prediction_of(self, kind: ModelKind) -> PredictConfig:
        held_out = self.kinds[kind].held_out
        return PredictConfig(shape=held_out, tokens=self.held_out_tokens, resamples=self.resamples)

    def held_out_of(self, kind: ModelKind) -> HeldOutConfig:
        values = self._values(HeldOutConfig) | {"tokens": self.held_out_tokens}
        return HeldOutConfig(shape=self.kinds[kind].held_out, **values)

    def _values(self, model: type[RunsConfig]) -> dict[str, object]:
        """The fields that a part has in common with the whole."""
        return {name: getattr(self, name) for name in model.model_fields if name in type(self).model_fields}


def sweep_shape(config: SweepConfig, inputs: Inputs, run: Run) -> Summary:
    """Stage ``sweep-*``: the runs of one shape; writes ``points.json``."""
    from components.scaling.study_runs import sweep_shape

    return sweep_shape(config, inputs, run)


def predict(config: PredictConfig, inputs: Inputs, run: Run) -> Summary:
    """Stage ``law-*``: inputs are the sweeps; writes ``law.json`` and ``prediction.json``."""
    from components.scaling.prediction import predict

    return predict(config, inputs, run)


def hold_out(config: HeldOutConfig, inputs: Inputs, run: Run) -> Summary:
    """Stage ``held-out-*``: inputs ``shards`` and ``law``; writes ``outcome.json``."""
    from components.scaling.outcome import hold_out

    return hold_out(config, inputs, run)


__all__ = [
    "DIRECT_RUNS", "HeldOutConfig", "ModelKind", "PredictConfig", "RunsConfig", "Sizes", "StudyConfig", "SweepConfig",
    "hold_out", "predict", "sweep_shape",
]  # fmt: skip
