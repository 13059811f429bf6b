"""Resumable training state on disk: written atomically and beside training, verified when read.

The state after N updates is ``step-N.pt`` with ``step-N.json`` (sha256, size of the world). The second file is
written last, so a state that was being written when the process died does not exist. With several ranks each writes
the parameters that it was given, as ``step-N-rank-R.*``, whole and by name, so the state of any number of ranks
resumes on any other number.
"""

import errno
import hashlib
import io
import json
import os
import threading
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from components.stage import StageError

KEPT = 2


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Write, flush to the disk, then rename over ``path``: readers see the old file or the whole new one."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def save_state(
    folder: Path, step: int, state: dict[str, Any], *, kept: int = KEPT, every: int = 0, best: bool = False,
    always: Collection[int] = (), loss: float | None = None, rank: int = 0, world_size: int = 1,
) -> None:  # fmt: skip
    """Save ``state`` (tensors, numbers, strings, lists, dicts) as this rank's part of the state after ``step`` updates.

    Kept are the ``kept`` newest, those of every ``every`` steps and of the steps in ``always``, and with ``best`` the
    one of the lowest ``loss``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getbuffer()
    stem = _stem(folder, step, rank)
    record = {"sha256": hashlib.sha256(data).hexdigest(), "step": step, "world_size": world_size, "loss": loss}
    # An old marker must not vouch for a new file; that would be a damaged state instead of none.
    stem.with_suffix(".json").unlink(missing_ok=True)
    write_atomically(stem.with_suffix(".pt"), data)
    write_atomically(stem.with_suffix(".json"), json.dumps(record).encode())
    _retire(folder, rank, kept, every, best, always)


def load_state(folder: Path) -> dict[str, Any] | None:
    """The newest state that is whole, parts of all ranks merged, or None; a damaged one is passed over."""
    for step in reversed(steps_of(folder)):
        state = read_state(folder, step)
        if state is not None:
            return state
    return None


def steps_of(folder: Path) -> list[int]:
    """Steps that a marker speaks of, ascending; whether a state is whole only reading it tells."""
    return sorted(int(path.stem.removeprefix("step-")) for path in folder.glob("step-????????.json"))


def clear_unfinished(folder: Path, rank: int = 0) -> None:
    """Remove what writes of this rank that were killed have left."""
    suffix = f"-rank-{rank}" if rank else ""
    for path in (*folder.glob(f"step-????????{suffix}.pt.*.tmp"), *folder.glob(f"step-????????{suffix}.json.*.tmp")):
        path.unlink(missing_ok=True)
    for path in folder.glob(f"step-????????{suffix}.pt"):
        if not path.with_suffix(".json").exists():
            path.unlink(missing_ok=True)


class Checkpointer:
    """Writes states in a thread, one at a time. What goes wrong there is raised by the next call here."""

    def __init__(
        self, folder: Path, *, kept: int = KEPT, every: int = 0, best: bool = False, always: Collection[int] = (),
        rank: int = 0, world_size: int = 1,
    ) -> None:  # fmt: skip
        self.folder = folder
        # Ranks finish a write at different times: the state before it is the newest that is whole until all have.
        kept = kept if world_size == 1 else max(2, kept)
        self._options: dict[str, Any] = {
            "kept": kept, "every": every, "best": best, "always": always, "rank": rank, "world_size": world_size,
        }  # fmt: skip
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        folder.mkdir(parents=True, exist_ok=True)
        clear_unfinished(folder, rank)

    def save(self, step: int, state: dict[str, Any], loss: float | None = None) -> None:
        """Copy ``state`` now, write it while training goes on; waits for the write before it, if that is not done."""
        self.wait()
        copied = _copied(state)
        self._thread = threading.Thread(target=self._write, args=(step, copied, loss), name="checkpoint", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Until all is on the disk. Raises StageError where the disk was full, and whatever else went wrong."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            whole = steps_of(self.folder)
            left = f"the one after step {whole[-1]} is whole" if whole else "there is none yet"
            raise StageError(
                f"the disk of {self.folder} is full: a checkpoint could not be written, {left}; free some space "
                "(qwenforge artifacts gc) or set QWENFORGE_HOME to another disk, and run again to carry on from there"
            ) from error
        if error is not None:
            raise error

    def settle(self) -> None:
        """Let a write that is under way end, on the way out of a failure: its own error would hide the cause."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _write(self, step: int, state: dict[str, Any], loss: float | None) -> None:
        try:
            try:
                save_state(self.folder, step, state, loss=loss, **self._options)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT) or self._options["world_size"] > 1:
                    raise
                # Older states are the one thing here that is ours to give up; the newest must stay.
                _retire(self.folder, self._options["rank"], 1, 0, False, self._options["always"])
                save_state(self.folder, step, state, loss=loss, **self._options)
        except BaseException as error:
            self._error = error


def _stem(folder: Path, step: int, rank: int) -> Path:
    # with_suffix replaces what follows the last dot, so the rank stands behind a dash
    return folder / (f"step-{step:08d}" + (f"-rank-{rank}" if rank else ""))


def read_state(folder: Path, step: int) -> dict[str, Any] | None:
    """The state after ``step`` updates, or None unless every rank's part is whole."""
    merged: dict[str, Any] = {}
    rank, world_size = 0, 1
    while rank < world_size:
        stem = _stem(folder, step, rank)
        try:
            record = json.loads(stem.with_suffix(".json").read_text())
            data = stem.with_suffix(".pt").read_bytes()
        except (OSError, ValueError):
            return None
        if rank and record.get("world_size") != world_size:
            return None
        if hashlib.sha256(data).hexdigest() != record["sha256"]:
            return None
        world_size = record.get("world_size", 1)
        _merge(merged, torch.load(io.BytesIO(data), map_location="cpu", weights_only=True))
        rank += 1
    return merged


def _merge(into: dict[str, Any], part: dict[str, Any]) -> None:
    for key, value in part.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _retire(folder: Path, rank: int, kept: int, every: int, best: bool, always: Collection[int]) -> None:
    """Delete this rank's states that no rule keeps."""
    suffix = f"-rank-{rank}" if rank else ""
    markers = sorted(folder.glob(f"step-????????{suffix}.json"))
    steps = {path: int(path.stem[5:13]) for path in markers}
    keep = {*markers[-kept:], *(path for path in markers if every and steps[path] % every == 0)}
    keep |= {path for path in markers if steps[path] in always}
    if best:
        losses = {path: loss for path in markers if (loss := _loss(path)) is not None}
        keep |= {min(losses, key=lambda path: losses[path])} if losses else set()
    for old in markers:
        if old not in keep:
            old.unlink(missing_ok=True)
            old.with_suffix(".pt").unlink(missing_ok=True)


def _loss(marker: Path) -> float | None:
    try:
        return json.loads(marker.read_text()).get("loss")
    except (OSError, ValueError):
        return None


def _copied(value: Any) -> Any:
    """Tensors copied to the host, so that training may change the originals."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(item) for item in value)
    return value


__all__ = [
    "Checkpointer", "clear_unfinished", "load_state", "read_state", "save_state", "steps_of", "write_atomically",
]  # fmt: skip
