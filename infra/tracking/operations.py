"""The operations of the journal, carried out against MLflow. Only this module imports it.

Each may be repeated without harm: MLflow itself ignores a metric point, parameter or dataset that it has, and what it
would not ignore (a model version) is looked up first.
"""

import logging
import os
from pathlib import Path

from infra.tracking.embedded import ensure_database
from infra.tracking.journal import Operation

log = logging.getLogger(__name__)

_DIGEST_LENGTH = 36  # MLflow's limit on the digest of a dataset
_PERMANENT = {
    "INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "INVALID_STATE",
    "PERMISSION_DENIED", "UNAUTHENTICATED", "ENDPOINT_NOT_FOUND", "NOT_FOUND", "NOT_IMPLEMENTED",
}  # fmt: skip


class Operations:
    """Carries out operations one after the other. Not thread-safe: one worker owns it."""

    def __init__(self, uri: str, experiment: str, artifact_root: Path) -> None:
        _prepare_import()
        from mlflow import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        ensure_database(uri)
        self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        # A server decides itself where files go; the embedded database would choose the working directory.
        location = None if uri.startswith("http") else artifact_root.as_uri()
        self._experiment = self._find_experiment(experiment, location)
        self.run_ids: dict[str, str] = {}

    def _find_experiment(self, name: str, location: str | None) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return self._client.create_experiment(name, artifact_location=location)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = self._client.get_experiment_by_name(name)  # another process was first
        if found is None:
            raise MlflowException(f"experiment {name} can be neither found nor created")
        if found.lifecycle_stage == "deleted":
            self._client.restore_experiment(found.experiment_id)
        return found.experiment_id

    def perform(self, operation: Operation) -> None:
        """Carry out one operation, or raise."""
        getattr(self, f"_{operation['op']}")(operation)

    def _create(self, operation: Operation) -> None:
        if operation["key"] in self.run_ids:
            return
        tags = dict(operation["tags"])
        if operation["parent"] is not None:
            tags["mlflow.parentRunId"] = self.run_ids[operation["parent"]]
        run = self._client.create_run(
            self._experiment, start_time=operation["time"], tags=tags, run_name=operation["name"]
        )
        self.run_ids[operation["key"]] = run.info.run_id

    def _batch(self, operation: Operation) -> None:
        from mlflow.entities import Metric, Param, RunTag

        self._client.log_batch(
            self.run_ids[operation["key"]],
            metrics=[Metric(*point) for point in operation.get("metrics", ())],  # key, value, timestamp, step
            params=[Param(key, value) for key, value in operation.get("params", {}).items()],
            tags=[RunTag(key, value) for key, value in operation.get("tags", {}).items()],
            synchronous=True,
        )

    def _files(self, operation: Operation) -> None:
        for path in operation["paths"]:
            log_files = self._client.log_artifacts if Path(path).is_dir() else self._client.log_artifact
            log_files(self.run_ids[operation["key"]], path, operation["folder"])

    def _dataset(self, operation: Operation) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            name=operation["name"], digest=operation["digest"][:_DIGEST_LENGTH], source_type="qwenforge-artifact",
            source=operation["source"], profile=operation["profile"],
        )  # fmt: skip
        tags = [InputTag("mlflow.data.context", operation["context"])]
        self._client.log_inputs(self.run_ids[operation["key"]], [DatasetInput(dataset, tags)])

    def _model(self, operation: Operation) -> None:
        from mlflow.exceptions import MlflowException

        name, digest = operation["name"], operation["digest"]
        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        known = self._client.search_model_versions(f"name = '{name}' and tag.digest = '{digest}'")
        version = known[0] if known else self._client.create_model_version(
            name, source=operation["source"], run_id=self.run_ids[operation["key"]], tags={"digest": digest}
        )  # fmt: skip
        self._client.set_registered_model_alias(name, operation["alias"], version.version)

    def _end(self, operation: Operation) -> None:
        self._client.set_terminated(
            self.run_ids[operation["key"]], status=operation["status"], end_time=operation["time"]
        )


def is_outage(error: Exception) -> bool:
    """Whether the same operation may go well later."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        return error.error_code not in _PERMANENT
    return isinstance(error, OSError) and not isinstance(error, FileNotFoundError)


def _prepare_import() -> None:
    """Settings that MLflow reads from the environment, unless the user has chosen otherwise."""
    for name, value in {
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "MLFLOW_DISABLE_TELEMETRY": "true",  # no calls home from a training cluster
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # the journal retries, and better
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # seconds
    }.items():
        os.environ.setdefault(name, value)


__all__ = ["Operations", "is_outage"]
