"""``TrackedRun``: what a stage's adapter may tell MLflow about one run."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.tracking.journal import milliseconds

if TYPE_CHECKING:
    from infra.tracking.tracking import Tracking

_STATUS = {"completed": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}
# MLflow's limits: parameters or tags of one batch, characters of their values, and of all names.
_BATCH = 100
_VALUE_LENGTH = {"params": 6000, "tags": 8000}
_NAME_LENGTH = 250
_NOT_IN_NAMES = re.compile(r"[^\w.\- :/]")


class TrackedRun:
    """A run of MLflow. No method waits for MLflow, except that starting a run waits briefly for its id."""

    def __init__(self, tracking: "Tracking", key: str) -> None:
        self._tracking = tracking
        self._key = key

    @property
    def run_id(self) -> str | None:
        """MLflow's id, or None while the run waits for MLflow to come back."""
        return self._tracking.run_id_of(self._key)

    def start_stage(
        self, stage: str, params: Mapping[str, Any] | None = None, tags: Mapping[str, Any] | None = None
    ) -> "TrackedRun":
        """A run nested below this one."""
        return self._tracking.start(stage, self._key, params, tags, wait=5.0)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Parameters; nested mappings become dotted names."""
        self._log_values("params", _flatten(params))

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        self._log_values("tags", tags)

    def log_metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """One point a value, at ``step`` (0 for values that have no step)."""
        at = milliseconds()
        self._tracking.add_points(
            self._key, [[_name(name), float(value), at, step or 0] for name, value in values.items()]
        )

    def log_artifact_files(self, paths: Path | Iterable[Path], folder: str | None = None) -> None:
        """Copy files, or all files of folders, to the run, below ``folder`` there."""
        paths = [paths] if isinstance(paths, Path) else list(paths)
        self._submit("files", paths=[str(path.absolute()) for path in paths], folder=folder)

    def log_dataset(self, name: str, digest: str, source: str, context: str, profile: str | None = None) -> None:
        """An input of this run: an artifact's ``digest``, its URI ``source`` and the role ``context`` it plays."""
        self._submit("dataset", name=name, digest=digest, source=source, context=context, profile=profile)

    def register_checkpoint(self, name: str, alias: str, digest: str, source_uri: str) -> None:
        """A version of the registered model ``name`` (one for each digest), to which ``alias`` points from now on."""
        self._submit("model", name=name, alias=alias, digest=digest, source=source_uri)

    def end(self, status: str = "FINISHED") -> None:
        """``FINISHED``, ``FAILED`` or ``KILLED``, or the catalog's ``completed``, ``failed`` or ``stopped``."""
        self._submit("end", status=_STATUS.get(status, status), time=milliseconds())

    def _log_values(self, what: str, values: Mapping[str, Any]) -> None:
        for batch in value_batches(what, values):
            self._submit("batch", **{what: batch})

    def _submit(self, op: str, **fields: Any) -> None:
        self._tracking.submit({"op": op, "key": self._key, **fields})


def value_batches(what: str, values: Mapping[str, Any]) -> list[dict[str, str]]:
    """``params`` or ``tags`` as texts that MLflow takes, in batches that it takes."""
    texts = [(_name(name), str(value)[: _VALUE_LENGTH[what]]) for name, value in values.items()]
    return [dict(texts[start : start + _BATCH]) for start in range(0, len(texts), _BATCH)]


def _name(name: str) -> str:
    """One bad character would have MLflow refuse the whole batch."""
    return _NOT_IN_NAMES.sub("_", name)[:_NAME_LENGTH]


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


__all__ = ["TrackedRun", "value_batches"]
