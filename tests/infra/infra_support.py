"""What the tests of infra share besides fixtures."""

import socket
from pathlib import Path
from typing import Any

ORIGIN: dict[str, Any] = {
    "kind": "corpus",
    "stage": "ingest",
    "stage_version": "1",
    "config_digest": "c" * 64,
    "inputs": {},
    "seed": 0,
    "summary": {"documents": 2},
}


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    """A folder with these files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
