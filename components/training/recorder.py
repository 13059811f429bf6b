"""The flight recorder: what the last steps saw, written down when training goes wrong."""

import json
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from components.training.checkpoint import write_atomically

STEPS = 200

Documents = Callable[[int], Sequence[Any]]
"""``documents_at(batch)``: ids of the documents (conversations, pairs, queries) in a batch."""


class FlightRecorder:
    """Step, batch, loss, gradient norm and learning rate of the last ``STEPS`` steps.

    Which documents a batch held is a pure function of its number, so nothing is kept of it: the ids are worked out
    when the record is written.
    """

    def __init__(self, documents_at: Documents | None = None) -> None:
        self.rows: deque[dict[str, float]] = deque(maxlen=STEPS)
        self._documents_at = documents_at

    def note(self, step: int, batch: int, loss: float, grad_norm: float, learning_rate: float) -> None:
        self.rows.append(
            {"step": step, "batch": batch, "loss": loss, "grad_norm": grad_norm, "learning_rate": learning_rate}
        )

    def write(self, path: Path, incidents: Sequence[dict[str, Any]] = ()) -> None:
        """All rows with their documents; numbers that are not finite become strings, as JSON has none."""
        rows: list[dict[str, Any]] = []
        for row in self.rows:
            documents = list(self._documents_at(int(row["batch"]))) if self._documents_at else []
            rows.append({key: _plain(value) for key, value in row.items()} | {"documents": documents})
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"incidents": list(incidents), "steps": rows}, indent=1, default=str)
        write_atomically(path, text.encode())

    def state(self) -> str:
        return json.dumps(list(self.rows))

    def load(self, state: str) -> None:
        self.rows.clear()
        self.rows.extend(json.loads(state))


def _plain(value: float) -> float | str:
    return value if value == value and abs(value) != float("inf") else str(value)


__all__ = ["STEPS", "Documents", "FlightRecorder"]
