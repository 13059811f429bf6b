"""A write-ahead journal of tracking operations: what a killed process or an MLflow outage has left is done later.

One file a process, locked by it as long as it lives, with one JSON object a line:

- an operation, written before it is tried: ``{"op": ..., "key": ..., ...}`` (see ``operations``);
- ``{"done": n}``: n more operations, from the first unfinished one, have been carried out;
- ``{"created": key, "run_id": ...}``: MLflow's id of the run that this process calls ``key``.

Carrying out an operation twice does no harm, so a kill between an operation and its ``done`` line is harmless.
"""

import contextlib
import fcntl
import json
import logging
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from infra.backends import disk_errors

log = logging.getLogger(__name__)

Operation = dict[str, Any]


@dataclass
class Leftover:
    """What a process that is gone has left to do."""

    operations: list[Operation] = field(default_factory=list)
    created: dict[str, str] = field(default_factory=dict)
    path: Path = field(default_factory=Path)


class Journal:
    """The journal of this process. ``place`` distinguishes MLflow servers that share a folder."""

    def __init__(self, folder: Path, place: str) -> None:
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._place = folder, place
        self._path = folder / f"{place}-{uuid.uuid4().hex}.jsonl"
        self._file: IO[str] | None = None
        self.size = 0  # bytes
        self._complained = False

    def append(self, records: Sequence[dict[str, Any]]) -> None:
        """Add lines. They survive the death of this process (not a power cut: metrics are not worth an fsync)."""
        if not records:
            return
        try:
            if self._file is None:
                self._file = self._new_file()
            self._file.write(_lines(records))
            self._file.flush()
            self.size = self._file.tell()
        except OSError as error:  # most likely a full disk: MLflow may still take it, and the run must go on
            if not self._complained:
                log.warning("cannot write %s: %s; an outage of MLflow now would lose metrics", self._path, error)
            self._complained = True

    def replace(self, records: Sequence[dict[str, Any]]) -> None:
        """Everything is done but for ``records``: forget the rest, and the file too when that leaves nothing."""
        if self._file is not None:
            old, self._file, self.size = self._file, None, 0
            if records:
                self.append(records)  # takes the old file's place
            else:
                self._path.unlink(missing_ok=True)
            old.close()

    def _new_file(self) -> IO[str]:
        # Locked before it gets its name, or another process could take it for a leftover.
        unnamed = self._path.with_suffix(".new")
        file = unnamed.open("w", encoding="utf-8")
        fcntl.flock(file, fcntl.LOCK_EX)
        unnamed.replace(self._path)
        return file

    def close(self) -> None:
        """Leave what is not done to the next process."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def leftovers(self) -> Iterator[Leftover]:
        """Journals of processes that are gone. Each is deleted once the caller comes back for the next."""
        for path in sorted(self._folder.glob(f"{self._place}-*.jsonl")):
            if path == self._path:
                continue
            with contextlib.suppress(OSError), path.open("r+", encoding="utf-8") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its process lives
                yield _read(file, path)
                path.unlink(missing_ok=True)


def _read(file: IO[str], path: Path) -> Leftover:
    """Unfinished operations, and an end for every run that its process did not end."""
    left = Leftover(path=path)
    begun: dict[str, None] = {}
    for line in file:
        try:
            record = json.loads(line)
        except ValueError:
            break  # the last line of a process that was killed while writing it
        if "done" in record:
            del left.operations[: record["done"]]
        elif "created" in record:
            left.created[record["created"]] = record["run_id"]
            begun[record["created"]] = None
        else:
            left.operations.append(record)
            if record["op"] == "create":
                begun[record["key"]] = None
            elif record["op"] == "end":
                begun.pop(record["key"], None)
    ended = int(path.stat().st_mtime * 1000)
    left.operations += [{"op": "end", "key": key, "status": "KILLED", "time": ended} for key in reversed(begun)]
    return left


def _lines(records: Sequence[dict[str, Any]]) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def milliseconds() -> int:
    """The time as MLflow writes it: milliseconds since 1970."""
    return int(time.time() * 1000)


__all__ = ["Journal", "Leftover", "Operation", "milliseconds"]
