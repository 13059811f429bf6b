"""The artifact store: immutable, content-addressed, verified on every read, the same on disk and on S3.

``commit`` makes a folder an artifact, ``open`` gives a verified local folder back, ``remember`` and ``recall`` map a
stage's cache key to the artifact that it made. What is half-written or damaged is never handed out.
"""

import hashlib
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.backends import Backend, LocalBackend, disk_errors
from infra.errors import CorruptArtifact, InfraError, MissingArtifact
from infra.manifest import (
    FileEntry,
    Manifest,
    check_digest,
    check_files,
    describe_files,
    describe_versions,
    now,
    plain_summary,
)
from infra.settings import Settings

log = logging.getLogger(__name__)

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


@dataclass(frozen=True)
class StoredArtifact:
    """A committed artifact. Its files are below ``path`` and were verified; treat them as read-only."""

    digest: str
    path: Path
    manifest: Manifest

    @property
    def kind(self) -> str:
        return self.manifest.kind

    @property
    def summary(self) -> dict[str, Any]:
        return self.manifest.summary


class ArtifactStore:
    """Artifacts over any ``Backend``."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        # What this process has verified: digest -> (path, size, mtime, inode) of every file at that time. A file
        # touched since then has another signature and is read again.
        self._verified: dict[str, tuple] = {}

    def commit(
        self, folder: Path, *, kind: str, stage: str, stage_version: str, config_digest: str,
        inputs: Mapping[str, str], seed: int, summary: Mapping[str, Any],
    ) -> StoredArtifact:  # fmt: skip
        """Store all files below ``folder``. The same content from the same origin is stored once.

        On the store's own disk files are hard-linked and become read-only, nothing is copied; ``folder`` itself is
        left alone and may be deleted afterwards. Nothing is visible until everything is written.
        """
        with disk_errors(folder):
            files = describe_files(folder)
        if not files:
            raise InfraError(f"stage {stage!r} wrote no file to {folder}; an artifact needs at least one")
        manifest = Manifest(
            kind=kind, stage=stage, stage_version=stage_version, config_digest=config_digest, inputs=dict(inputs),
            seed=seed, summary=plain_summary(stage, dict(summary)), files=files, versions=describe_versions(),
            created_at=now(),
        )  # fmt: skip
        digest = manifest.digest
        try:
            return self.open(digest)
        except MissingArtifact:
            pass
        except CorruptArtifact as error:
            log.warning("replacing a damaged artifact: %s", error)
            self.delete(digest)
        self.backend.publish(digest, manifest.to_json(), folder, files)
        path = self.backend.fetch(digest, files)
        self._verified[digest] = _signature(path, files)  # these very bytes were hashed above
        return StoredArtifact(digest, path, manifest)

    def open(self, digest: str) -> StoredArtifact:
        """The artifact, with every file checked for size and sha256 (once a process, unless touched since)."""
        manifest = self.manifest(digest)
        for last in (False, True):
            path = self.backend.fetch(digest, manifest.files)
            try:
                self._check(digest, manifest, path)
                break
            except CorruptArtifact:
                # A damaged download is fetched once more; a damaged original is final.
                if last or not self.backend.drop_copy(digest):
                    raise
        return StoredArtifact(digest, path, manifest)

    def manifest(self, digest: str) -> Manifest:
        """The manifest, checked against the digest that it is stored under."""
        data = self.backend.read(f"objects/{_checked(digest)}/manifest.json")
        if data is None:
            raise MissingArtifact(f"no artifact {digest[:12]} in {self.backend.location}; run the stage that makes it")
        return Manifest.from_json(digest, data)

    def read(self, digest: str, path: str) -> bytes:
        """One file of an artifact, checked, without fetching the others: for looking at, not for stages."""
        entry = next((entry for entry in self.manifest(digest).files if entry.path == path), None)
        if entry is None:
            raise MissingArtifact(f"artifact {digest[:12]} has no file {path!r}")
        content = b"".join(self.backend.chunks(digest, path))
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            raise CorruptArtifact(digest, path, "the content has changed (sha256 differs)")
        return content

    def exists(self, digest: str) -> bool:
        """Whether the artifact was committed. Says nothing of its bytes: see ``verify``."""
        return self.backend.read(f"objects/{_checked(digest)}/manifest.json") is not None

    def uri(self, digest: str) -> str:
        """Where the artifact's files are, for people and for other programs."""
        location = self.backend.location
        base = location if self.backend.remote else Path(location).as_uri() + "/"
        return f"{base}objects/{_checked(digest)}/files"

    def find(self, prefix: str) -> str:
        """The one digest that starts with ``prefix``."""
        found = [name for name in self.backend.names("objects") if name.startswith(prefix)]
        if len(found) != 1:
            problem = f"{len(found)} artifacts start" if found else "no artifact starts"
            raise MissingArtifact(f"{problem} with {prefix!r} in {self.backend.location}; see `qwenforge artifacts ls`")
        return found[0]

    def list(self) -> Sequence[Manifest]:
        """Manifests of all artifacts, oldest first. A damaged one is logged and left out."""
        manifests = []
        for digest in self.backend.names("objects"):
            try:
                manifests.append(self.manifest(digest))
            except MissingArtifact:  # being written, or left half-written
                continue
            except InfraError as error:
                log.warning("%s", error)
        return sorted(manifests, key=lambda manifest: (manifest.created_at, manifest.digest))

    def verify(self, digest: str) -> Manifest:
        """Read the stored bytes themselves (on S3: not the local copy) and check them, without any caching."""
        manifest = self.manifest(digest)
        self._check_sizes(digest, manifest)
        for entry in manifest.files:
            hasher = hashlib.sha256()
            for chunk in self.backend.chunks(digest, entry.path):
                hasher.update(chunk)
            if hasher.hexdigest() != entry.sha256:
                raise CorruptArtifact(digest, entry.path, "the content has changed (sha256 differs)")
        return manifest

    def delete(self, digest: str) -> None:
        """Remove the artifact, if it is there."""
        self._verified.pop(digest, None)
        self.backend.remove(f"objects/{_checked(digest)}")

    def gc(self, keep: set[str]) -> set[str]:
        """Delete every artifact not in ``keep``, the keys that led to them, and what killed writers have left.

        ``keep`` must name ancestors too where lineage should stay readable. Not for use during a run, whose newest
        artifacts ``keep`` cannot know.
        """
        removed = set(self.backend.names("objects")) - keep
        for digest in removed:
            self.delete(digest)
        for key in self.backend.names("keys"):
            value = (self.backend.read(f"keys/{key}") or b"").decode(errors="replace")
            if value not in keep:
                self.backend.remove(f"keys/{key}")
        self.backend.sweep()
        return removed

    def remember(self, cache_key: str, digest: str) -> None:
        """Note that a stage with this cache key has made this artifact."""
        if not self.exists(digest):
            raise MissingArtifact(f"no artifact {digest[:12]} in {self.backend.location}; commit it first")
        self.backend.write(f"keys/{_checked_key(cache_key)}", digest.encode())

    def recall(self, cache_key: str, *, verify: bool = True) -> str | None:
        """The artifact that ``cache_key`` has led to, or None when there is none or it is damaged.

        ``verify=False`` looks at file sizes only, which is quick (for a plan). On S3 that is all that happens in either
        case, since reading everything would be a download: ``open`` verifies the content when it is needed.
        """
        data = self.backend.read(f"keys/{_checked_key(cache_key)}")
        if data is None:
            return None
        digest = data.decode(errors="replace")
        try:
            if verify and not self.backend.remote:
                self.open(digest)
            else:
                self._check_sizes(digest, self.manifest(digest))
        except InfraError as error:
            log.warning("cached result is not usable, its stage will run again: %s", error)
            return None
        return digest

    def _check(self, digest: str, manifest: Manifest, path: Path) -> None:
        signature = _signature(path, manifest.files)
        if not signature or self._verified.get(digest) != signature:
            check_files(digest, manifest.files, path)
            self._verified[digest] = signature

    def _check_sizes(self, digest: str, manifest: Manifest) -> None:
        stored = self.backend.sizes(digest)
        for entry in manifest.files:
            if entry.path not in stored:
                raise CorruptArtifact(digest, entry.path, "the file is missing")
            if stored[entry.path] != entry.size:
                raise CorruptArtifact(digest, entry.path, f"{stored[entry.path]} bytes, {entry.size} were committed")


def open_store(settings: Settings) -> ArtifactStore:
    """The store that ``settings`` name: a folder, or an S3 bucket with a local copy of what was read."""
    uri = settings.artifacts_uri
    if not uri.startswith("s3://"):
        return ArtifactStore(LocalBackend(Path(uri)))
    from infra.s3 import S3Backend, s3_client  # boto3 takes 0.3 s to import

    return ArtifactStore(S3Backend(s3_client(settings), uri, LocalBackend(settings.home / "s3-cache")))


def _checked(digest: str) -> str:
    try:
        return check_digest(digest)
    except ValueError as error:
        raise MissingArtifact(f"{error}; see `qwenforge artifacts ls`") from None


def _checked_key(key: str) -> str:
    if not _KEY.fullmatch(key):
        raise InfraError(f"{key!r} is no cache key; use up to 200 letters, digits, '.', '_' and '-'")
    return key


def _signature(folder: Path, files: Sequence[FileEntry]) -> tuple:
    """What changes when a file is touched; empty when a file is missing."""
    try:
        stats = [(entry.path, (folder / entry.path).stat()) for entry in files]
    except OSError:
        return ()
    return (str(folder), *((path, stat.st_size, stat.st_mtime_ns, stat.st_ino) for path, stat in stats))


__all__ = ["ArtifactStore", "CorruptArtifact", "InfraError", "MissingArtifact", "StoredArtifact", "open_store"]
