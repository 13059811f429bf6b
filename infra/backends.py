"""Where artifact bytes are kept: the protocol that the store needs, and the local disk.

Layout, the same on every backend: ``objects/<digest>/files/...`` and ``objects/<digest>/manifest.json``, which
is written last, and ``keys/<cache key>``. An artifact without a manifest does not exist.
"""

import contextlib
import errno
import logging
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from infra.errors import InfraError
from infra.manifest import FileEntry

log = logging.getLogger(__name__)

CHUNK = 1 << 20  # bytes
LEFTOVER_AGE = 24 * 3600.0  # seconds; whatever is half-written and older has no writer any more


class Backend(Protocol):
    """Keeps artifacts and small keyed values. Knows bytes and names, and nothing of what they mean."""

    @property
    def location(self) -> str:
        """The place, for messages."""
        ...

    @property
    def remote(self) -> bool:
        """Whether reading content costs a download."""
        ...

    def publish(self, digest: str, manifest: bytes, folder: Path, files: Sequence[FileEntry]) -> None:
        """Make the files visible under ``digest``, all or nothing. ``folder`` may be left linked or copied."""
        ...

    def fetch(self, digest: str, files: Sequence[FileEntry]) -> Path:
        """A local folder with the artifact's files, not verified."""
        ...

    def drop_copy(self, digest: str) -> bool:
        """Forget the local copy; False when that copy is all there is."""
        ...

    def sizes(self, digest: str) -> dict[str, int]:
        """Path and bytes of every stored file."""
        ...

    def chunks(self, digest: str, path: str) -> Iterator[bytes]:
        """The stored bytes of one file."""
        ...

    def read(self, name: str) -> bytes | None:
        """A small value, or None when there is none of this name."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Set a small value atomically."""
        ...

    def names(self, folder: str) -> list[str]:
        """Sorted names directly below ``objects`` or ``keys``."""
        ...

    def remove(self, name: str) -> None:
        """Remove ``objects/<digest>`` or ``keys/<key>``; no error when it is not there."""
        ...

    def sweep(self) -> None:
        """Remove what killed writers have left half-written."""
        ...


@contextlib.contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """Turn the disk errors that a user can mend into one clear line."""
    remedies = {
        errno.ENOSPC: "the disk is full; free some space (`qwenforge artifacts gc`) and run again",
        errno.EDQUOT: "the disk quota is used up; free some space and run again",
        errno.EACCES: "permission denied; choose a folder that you may write (QWENFORGE_HOME, QWENFORGE_STORE_URI)",
        errno.EPERM: "permission denied; choose a folder that you may write (QWENFORGE_HOME, QWENFORGE_STORE_URI)",
        errno.EROFS: "the file system is read-only; choose another folder (QWENFORGE_HOME, QWENFORGE_STORE_URI)",
        errno.ENOTDIR: "a file is where a folder should be; move it away or choose another folder",
    }
    try:
        yield
    except OSError as error:
        if error.errno not in remedies:
            raise
        raise InfraError(f"cannot use {error.filename or place}: {remedies[error.errno]}") from error


class LocalBackend:
    """A folder on a disk, local or mounted. Commits by one rename, so readers see all of it or nothing."""

    remote = False

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        with disk_errors(self.root):
            for folder in ("objects", "keys", "staging"):
                (self.root / folder).mkdir(parents=True, exist_ok=True)
        if not os.access(self.root / "staging", os.W_OK | os.X_OK):
            raise InfraError(f"cannot write to {self.root}; set QWENFORGE_STORE_URI to a folder you may write")

    @property
    def location(self) -> str:
        return str(self.root)

    def publish(self, digest: str, manifest: bytes, folder: Path, files: Sequence[FileEntry]) -> None:
        staging = self.new_staging()
        try:
            with disk_errors(self.root):
                (staging / "files").mkdir()
                for entry in files:
                    target = staging / "files" / entry.path
                    target.parent.mkdir(parents=True, exist_ok=True)
                    _link_or_copy(folder / entry.path, target)
                self.seal(staging, digest, manifest)
        finally:
            shutil.rmtree(staging, ignore_errors=True)  # gone already when the commit went well

    def new_staging(self) -> Path:
        """An empty folder on the store's own disk, invisible to readers."""
        staging = self.root / "staging" / uuid.uuid4().hex
        with disk_errors(staging):
            staging.mkdir(parents=True)
        return staging

    def seal(self, staging: Path, digest: str, manifest: bytes) -> None:
        """Flush ``staging/files``, write the manifest last, and rename the whole into place."""
        for path in (staging / "files").rglob("*"):
            if path.is_file():
                # Read-only also protects against a stage that still writes through its own hard link.
                path.chmod(0o444)
            _flush(path)
        _flush(staging / "files")
        _write_flushed(staging / "manifest.json", manifest)
        _flush(staging)
        target = self.root / "objects" / digest
        try:
            staging.rename(target)
        except OSError as error:
            # Another process has committed the very same content in between: theirs is as good as ours.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        _flush(target.parent)

    def fetch(self, digest: str, files: Sequence[FileEntry]) -> Path:
        return self.root / "objects" / digest / "files"

    def drop_copy(self, digest: str) -> bool:
        return False

    def sizes(self, digest: str) -> dict[str, int]:
        folder = self.root / "objects" / digest / "files"
        return {
            path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()
        }

    def chunks(self, digest: str, path: str) -> Iterator[bytes]:
        with (self.root / "objects" / digest / "files" / path).open("rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk

    def read(self, name: str) -> bytes | None:
        try:
            return (self.root / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, name: str, data: bytes) -> None:
        temporary = self.root / "staging" / uuid.uuid4().hex
        target = self.root / name
        with disk_errors(target):
            try:
                _write_flushed(temporary, data)
                temporary.replace(target)
            finally:
                temporary.unlink(missing_ok=True)
            _flush(target.parent)

    def names(self, folder: str) -> list[str]:
        return sorted(path.name for path in (self.root / folder).iterdir())

    def remove(self, name: str) -> None:
        # Renamed away first: a reader never sees an artifact that is half gone.
        doomed = self.root / "staging" / uuid.uuid4().hex
        with disk_errors(self.root / name):
            try:
                (self.root / name).rename(doomed)
            except FileNotFoundError:
                return
            if doomed.is_dir():
                shutil.rmtree(doomed)
            else:
                doomed.unlink()

    def sweep(self) -> None:
        for path in (self.root / "staging").iterdir():
            if time.time() - path.stat().st_mtime > LEFTOVER_AGE:
                log.info("removing %s, left by a process that was killed", path)
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _link_or_copy(source: Path, target: Path) -> None:
    """Hard-link where the file system can (no bytes move), else copy."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # another disk, no hard links here, or the source belongs to someone else
        shutil.copyfile(source, target)


def _write_flushed(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _flush(path: Path) -> None:
    """Make a file's content, or a folder's entries, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


__all__ = ["Backend", "LocalBackend", "disk_errors"]
