"""What is written down of a run: in MLflow for looking at, in the catalog for asking, both in one place."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from pydantic import BaseModel

from flows.errors import describe
from flows.stages import Stage, config_digest
from infra.catalog import Catalog
from infra.settings import Settings
from infra.store import ArtifactStore, StoredArtifact
from infra.tracking import TrackedRun, Tracking

log = logging.getLogger(__name__)

MODEL_NAME = "qwenforge"  # in MLflow's model registry


class StageRecord:
    """One attempt at a stage."""

    def __init__(self, tracked: TrackedRun, catalog: Catalog, row: int) -> None:
        self._tracked, self._catalog, self._row = tracked, catalog, row
        self.last: dict[str, float] = {}
        self.digest: str | None = None
        self.seconds: float | None = None

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Measured values: every point goes to MLflow, the last of each to the catalog."""
        self.last.update({name: float(value) for name, value in values.items()})
        self._tracked.log_metrics(values, step)

    def progress(self, doing: str, share: float, seconds_left: float | None) -> bool:
        """How far it is, in the catalog; whether that could be written."""
        return self._catalog.note_progress(self._row, doing, share, seconds_left)

    def finish(self, digest: str, seconds: float) -> None:
        """The stage has made the artifact ``digest``."""
        self.digest, self.seconds = digest, seconds


class Records:
    """The records of one run of a recipe."""

    def __init__(self, settings: Settings, store: ArtifactStore) -> None:
        # Migrations and the import of MLflow happen now, so that what is wrong with either shows before the run.
        self.catalog = Catalog(settings.catalog_url)
        self.tracking = Tracking(settings.tracking_uri, artifact_root=settings.tracking_artifacts)
        self.store = store
        self.run_id = ""
        self._tracked: TrackedRun | None = None

    def close(self) -> None:
        self.tracking.close()
        self.catalog.close()

    @contextmanager
    def run(
        self, name: str, recipe: BaseModel, seed: int, stages: list[str], flow_run_id: str | None
    ) -> Iterator[None]:
        """One execution of ``recipe``; its end is recorded however it ends."""
        values, digest = recipe.model_dump(mode="json"), config_digest(recipe)
        self._tracked = self.tracking.start_recipe_run(name, params=values, tags={"recipe_digest": digest})
        self.run_id = self.catalog.start_run(
            name=name, recipe=values, recipe_digest=digest, seed=seed, stages=stages,
            mlflow_run_id=self._tracked.run_id, flow_run_id=flow_run_id,
        )  # fmt: skip
        self._tracked.set_tags({"catalog_run": self.run_id})
        try:
            yield
        except BaseException as error:
            with _never_hiding(error):
                self._tracked.end(state_after(error))
                self.catalog.finish_run(self.run_id, state_after(error), error=describe(error))
            raise
        self._tracked.end("completed")
        self.catalog.finish_run(self.run_id, "completed")

    @contextmanager
    def stage(self, stage: Stage, config: BaseModel, key: str, inputs: Mapping[str, str]) -> Iterator[StageRecord]:
        """One attempt at ``stage``: a nested MLflow run with its lineage, and a row of the catalog."""
        assert self._tracked is not None, "a stage is recorded inside a run"
        tracked = self._tracked.start_stage(
            stage.id, params=config.model_dump(mode="json"), tags={"cache_key": key, "version": stage.version}
        )
        for name, digest in inputs.items():
            tracked.log_dataset(name, digest, self.store.uri(digest), context=name)
        row = self.catalog.start_stage(self.run_id, stage.id, cache_key=key, mlflow_run_id=tracked.run_id)
        record = StageRecord(tracked, self.catalog, row)
        try:
            yield record
        except BaseException as error:
            with _never_hiding(error):
                tracked.end(state_after(error))
                self.catalog.finish_stage(row, state_after(error), error=describe(error), metrics=record.last)
            raise
        assert record.digest is not None, "finish() names the artifact of a stage that ended well"
        artifact = self.store.open(record.digest)
        self._record_artifact(stage, artifact, tracked)
        tracked.log_metrics({"seconds": record.seconds or 0.0, **numbers(artifact.summary)})
        tracked.set_tags({"artifact": artifact.digest})
        tracked.end("completed")
        self.catalog.finish_stage(
            row, "completed", artifact_digest=artifact.digest, seconds=record.seconds, metrics=record.last
        )

    def stage_cached(self, stage: Stage, key: str, digest: str) -> None:
        """A stage that an earlier run has finished, perhaps with another catalog on the same store."""
        row = self.catalog.start_stage(self.run_id, stage.id, cache_key=key)
        self._record_artifact(stage, self.store.open(digest), self._tracked)
        self.catalog.finish_stage(row, "cached", artifact_digest=digest)

    def _record_artifact(self, stage: Stage, artifact: StoredArtifact, tracked: TrackedRun | None) -> None:
        self.catalog.record_artifact(artifact.manifest)
        if tracked and artifact.kind in ("evaluation", "report"):
            tracked.log_artifact_files(artifact.path, artifact.kind)
        if tracked and stage.alias:
            self.catalog.set_alias(stage.alias, artifact.digest, self.run_id)
            tracked.register_checkpoint(MODEL_NAME, stage.alias, artifact.digest, self.store.uri(artifact.digest))


def state_after(error: BaseException) -> Literal["failed", "stopped"]:
    """How a run ended that ``error`` has ended: an Exception is a failure, anything else came from outside."""
    return "failed" if isinstance(error, Exception) else "stopped"


def numbers(summary: Mapping[str, Any]) -> dict[str, float]:
    """The summary's plain numbers and its measured effects, as metrics."""
    plain = {name: float(value) for name, value in summary.items() if isinstance(value, int | float)}
    effects = {_metric_name(e["name"]): float(e["value"]) for e in summary.get("effects", ())}
    return plain | effects


def _metric_name(text: str) -> str:
    return "effect/" + "".join(c if c.isalnum() or c in " ._-/" else "-" for c in text)


@contextmanager
def _never_hiding(error: BaseException) -> Iterator[None]:
    """Writing down a failure may fail as well (a full disk); what happened first stays the message."""
    try:
        yield
    except Exception as later:
        log.warning("could not record that %s: %s", describe(error), describe(later))


__all__ = ["MODEL_NAME", "Records", "StageRecord", "numbers", "state_after"]
