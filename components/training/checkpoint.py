"""Resumable training state on disk: written atomically, verified when read, the last two kept.

A state is ``step-N.pt`` plus ``step-N.json`` with its sha256; the second file is written last, so a state that
was being written when the process died does not exist.
"""

import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import torch

KEPT = 2


def write_atomically(path: Path, data: bytes) -> None:
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


def save_state(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Save ``state`` (tensors, numbers, strings, lists, dicts) as the state after ``step`` updates."""
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    name = f"step-{step:08d}"
    write_atomically(folder / f"{name}.pt", data)
    record = {"sha256": hashlib.sha256(data).hexdigest(), "step": step}
    write_atomically(folder / f"{name}.json", json.dumps(record).encode())
    for old in sorted(folder.glob("step-*.json"))[:-KEPT]:
        old.unlink()
        old.with_suffix(".pt").unlink(missing_ok=True)


def load_state(folder: Path) -> dict[str, Any] | None:
    """The newest state that is whole, or None; a damaged one is passed over for the one before it."""
    for marker in sorted(folder.glob("step-*.json"), reverse=True):
        try:
            record = json.loads(marker.read_text())
            data = marker.with_suffix(".pt").read_bytes()
        except (OSError, ValueError):
            continue
        if hashlib.sha256(data).hexdigest() == record["sha256"]:
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return None
