"""Checks before a run starts: what would stop it later should stop it now."""

import os
import shutil
import uuid
from importlib.util import find_spec
from pathlib import Path

from infra.errors import InfraError
from infra.settings import Settings
from infra.store import ArtifactStore

LEAST_FREE = 512 * 1024**2  # bytes: below this not even a small run's checkpoints fit


def preflight(settings: Settings, store: ArtifactStore) -> None:
    """Raise InfraError when the store cannot be written, a disk is nearly full or an engine is missing."""
    check_store(store)
    if settings.data_engine == "ray" and find_spec("ray") is None:
        raise InfraError("the data engine ray needs its extra: pip install --editable '.[ray]'")
    for folder in {settings.home, Path(settings.artifacts_uri)}:
        if not str(folder).startswith("s3:"):
            check_space(folder)


def check_store(store: ArtifactStore) -> None:
    """Write a small value and remove it again."""
    name = f"keys/preflight-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    try:
        store.backend.write(name, b"writable")
        store.backend.remove(name)
    except OSError as error:
        raise InfraError(
            f"cannot write to the artifact store {store.backend.location}: {error.strerror}; set QWENFORGE_STORE_URI "
            "to a folder that you may write, or to s3://bucket/prefix"
        ) from None


def check_space(folder: Path) -> None:
    """Free space of the disk that ``folder`` is, or will be, on."""
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(existing).free
    if free < LEAST_FREE:
        mebibytes = f"{free / 1024**2:.0f} MiB free, {LEAST_FREE / 1024**2:.0f} MiB are the least"
        raise InfraError(
            f"the disk of {folder} is nearly full ({mebibytes}); "
            "free some (qwenforge artifacts gc) or set QWENFORGE_HOME to another disk"
        )


__all__ = ["LEAST_FREE", "preflight"]
