"""``Tracking``: MLflow runs of recipes and their stages, written by a background thread.

A caller only ever appends to a queue in memory. The worker thread writes the queue to the journal and then to MLflow;
while MLflow is away it keeps trying, and what is left when the process ends is done by the next one.
"""

import atexit
import hashlib
import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from infra.errors import InfraError
from infra.tracking.journal import Journal, Operation, milliseconds
from infra.tracking.operations import Operations, is_outage
from infra.tracking.run import TrackedRun, value_batches

log = logging.getLogger(__name__)

FLUSH_SECONDS = 1.0  # metrics reach MLflow this often; also the most that a kill -9 can lose
_LONGEST_WAIT = 30.0  # seconds between two attempts while MLflow is away
_POINTS = 1000  # MLflow's limit on the metrics of one batch
_JOURNAL_BYTES = 1 << 20  # what is done is dropped from the journal beyond this


class Tracking:
    """One MLflow experiment. Opening returns at once: MLflow is imported and its database made in the background.

    ``uri``: ``sqlite:///file`` or ``http(s)://server``. ``artifact_root``: where files of runs go with SQLite.
    ``patience``: seconds that ``start_recipe_run`` waits for MLflow before it gives up.
    """

    def __init__(
        self, uri: str, experiment: str = "qwenforge", *, artifact_root: Path, journal_folder: Path | None = None,
        patience: float = 30.0,
    ) -> None:  # fmt: skip
        self._uri, self._experiment, self._artifact_root = uri, experiment, artifact_root.absolute()
        self._patience = patience
        # Named by a hash, since the URI may hold a password.
        place = hashlib.sha256(f"{uri}\n{experiment}".encode()).hexdigest()[:12]
        self._journal = Journal(journal_folder or self._artifact_root.parent / "mlflow-journal", place)
        self._changed = threading.Condition()
        # All below is guarded by the condition.
        self._queue: deque[Operation] = deque()  # not yet in the journal
        self._points: dict[str, list[list]] = {}  # run -> metric points not yet in the queue
        self._unfinished = 0  # operations in the journal and not done
        self._open: set[str] = set()  # runs not ended
        self._run_ids: dict[str, str] = {}
        self._trouble: Exception | None = None  # why MLflow is away
        self._closing = False
        self._worker = threading.Thread(target=self._work, name="mlflow-tracking", daemon=True)
        self._worker.start()
        atexit.register(self.close)

    def start_recipe_run(
        self, name: str, params: Mapping[str, Any] | None = None, tags: Mapping[str, Any] | None = None
    ) -> TrackedRun:
        """The parent run of one execution of a recipe. Fails if MLflow cannot be reached: nothing is lost yet."""
        run = self.start(name, None, params, tags, self._patience)
        if run.run_id is None:
            with self._changed:
                reason = self._trouble
            if isinstance(reason, InfraError):
                raise reason
            raise InfraError(
                f"cannot start a run in MLflow within {self._patience:.0f} s: {reason or 'no answer'}; check "
                "QWENFORGE_MLFLOW_URI, or unset it to use the embedded database"
            )
        return run

    def flush(self, timeout: float = 10.0) -> bool:
        """Wait until MLflow has everything; False when ``timeout`` seconds were not enough."""
        deadline = time.monotonic() + timeout
        with self._changed:
            self._take_points()
            self._changed.notify_all()
            return self._changed.wait_for(
                lambda: not self._queue and not self._unfinished, max(0.0, deadline - time.monotonic())
            )

    def close(self, timeout: float = 10.0) -> None:
        """Flush and stop. What MLflow has not taken by then stays in the journal for the next process."""
        atexit.unregister(self.close)
        if not self._worker.is_alive():
            return
        if not self.flush(timeout):
            log.warning("MLflow is away; what it has not been told is kept and sent when qwenforge runs next")
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._worker.join(timeout)

    # For TrackedRun

    def run_id_of(self, key: str) -> str | None:
        """MLflow's id of a run, or None while it waits to be created."""
        with self._changed:
            return self._run_ids.get(key)

    def start(
        self, name: str, parent: str | None, params: Mapping[str, Any] | None, tags: Mapping[str, Any] | None,
        wait: float,
    ) -> TrackedRun:  # fmt: skip
        key = uuid.uuid4().hex
        """A run below ``parent``, after waiting up to ``wait`` seconds for MLflow's id of it."""
        (texts,) = value_batches("tags", tags or {}) or [{}]
        with self._changed:
            self._open.add(key)
        self.submit({"op": "create", "key": key, "parent": parent, "name": name, "tags": texts, "time": milliseconds()})
        run = TrackedRun(self, key)
        run.log_params(params or {})
        with self._changed:
            self._changed.wait_for(lambda: key in self._run_ids or self._cannot_wait(parent), wait)
        return run

    def _cannot_wait(self, parent: str | None) -> bool:
        """Whether waiting is of no use: a nested run can be created later, and some errors stay."""
        if self._trouble is None:
            return False
        return parent is not None or isinstance(self._trouble, InfraError) or not is_outage(self._trouble)

    def submit(self, operation: Operation) -> None:
        """Queue an operation behind everything that was logged before it."""
        with self._changed:
            self._take_points()
            self._queue.append(operation)
            self._changed.notify_all()

    def add_points(self, key: str, points: Iterable[list]) -> None:
        """Queue metric points (name, value, milliseconds, step) of a run."""
        with self._changed:
            self._points.setdefault(key, []).extend(points)

    def _take_points(self) -> None:
        for key, points in self._points.items():
            for start in range(0, len(points), _POINTS):
                self._queue.append({"op": "batch", "key": key, "metrics": points[start : start + _POINTS]})
        self._points.clear()

    # Worker's side

    def _work(self) -> None:
        try:
            self._serve()
        except Exception:  # a bug here must not end the run; the journal keeps what was written so far
            log.exception("tracking has stopped; MLflow will not see the rest of this run")

    def _serve(self) -> None:
        operations = self._connect()
        if operations is None:
            return
        backlog: deque[Operation] = deque()
        for left in self._journal.leftovers():
            operations.run_ids.update(left.created)
            records = [{"created": key, "run_id": run_id} for key, run_id in left.created.items()]
            self._journal.append([*records, *left.operations])
            self._count(len(left.operations))
            backlog.extend(left.operations)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closing, FLUSH_SECONDS)
                self._take_points()
                taken, closing = list(self._queue), self._closing
                self._queue.clear()
                self._unfinished += len(taken)
            if taken:
                self._journal.append(taken)
                backlog.extend(taken)
            self._drain(operations, backlog)
            self._shorten()
            if closing:
                self._journal.close()
                return

    def _shorten(self) -> None:
        """Forget what is done: at once when nothing is left to remember, else when the journal has grown."""
        with self._changed:
            if self._unfinished or (self._open and self._journal.size < _JOURNAL_BYTES):
                return
            still = [{"created": key, "run_id": self._run_ids[key]} for key in self._open if key in self._run_ids]
            if len(still) == len(self._open):
                self._journal.replace(still)

    def _connect(self) -> Operations | None:
        """MLflow, once it can be reached; None when the process ends before that."""
        wait = 0.5
        while True:
            try:
                operations = Operations(self._uri, self._experiment, self._artifact_root)
            except Exception as error:
                with self._changed:
                    self._trouble = error
                    self._changed.notify_all()
                    if self._changed.wait_for(lambda: self._closing, wait):
                        self._take_points()
                        self._journal.append(list(self._queue))
                        self._journal.close()
                        return None
                wait = min(2 * wait, _LONGEST_WAIT)
            else:
                with self._changed:
                    self._trouble = None
                return operations

    def _drain(self, operations: Operations, backlog: deque[Operation]) -> None:
        """Carry out the backlog in order, waiting through outages; stops early only when closing."""
        wait = 0.5
        while backlog:
            operation = backlog[0]
            try:
                operations.perform(operation)
            except Exception as error:
                if is_outage(error):
                    with self._changed:
                        if self._trouble is None:
                            log.warning("MLflow is away, metrics are kept meanwhile: %s", error)
                        self._trouble = error
                        self._changed.notify_all()
                        if self._changed.wait_for(lambda: self._closing, wait):
                            return
                        self._keep_new(backlog)
                    wait = min(2 * wait, _LONGEST_WAIT)
                    continue
                log.warning("MLflow has refused %r: %s", operation["op"], error)
            backlog.popleft()
            self._finished(operation, operations)

    def _keep_new(self, backlog: deque[Operation]) -> None:
        """During an outage, move what callers add to the journal, so that a kill loses as little as otherwise."""
        self._take_points()
        self._journal.append(list(self._queue))
        self._unfinished += len(self._queue)
        backlog.extend(self._queue)
        self._queue.clear()

    def _finished(self, operation: Operation, operations: Operations) -> None:
        key = operation["key"]
        records: list[dict[str, Any]] = [{"done": 1}]
        if operation["op"] == "create" and key in operations.run_ids:
            records.insert(0, {"created": key, "run_id": operations.run_ids[key]})
        self._journal.append(records)
        with self._changed:
            if self._trouble is not None:
                log.warning("MLflow is back")
            self._trouble = None
            self._unfinished -= 1
            if operation["op"] == "create" and key in operations.run_ids:
                self._run_ids[key] = operations.run_ids[key]
            elif operation["op"] in ("create", "end"):  # a create without an id was refused for good
                self._open.discard(key)
            self._changed.notify_all()

    def _count(self, operations: int) -> None:
        with self._changed:
            self._unfinished += operations


__all__ = ["TrackedRun", "Tracking"]
