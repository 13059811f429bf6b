"""What an artifact is: the manifest that names its files and its origin, and the digest made of both.

The digest covers the kind, the stage with its version, the config digest, the inputs, the seed, the summary and
every file's path, size and sha256. It leaves out ``created_at`` and ``versions``: when and with which library
versions something was made does not change what it is, so the same recipe gives the same digest next year as
long as the bytes agree. Origin is part of it on purpose: an artifact's lineage can then never be ambiguous
(equal bytes made in two ways are two artifacts), and a chain of digests vouches for the whole history.
"""

import hashlib
import json
import platform
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from infra.errors import CorruptArtifact, InfraError

_HEX = re.compile(r"[0-9a-f]{64}")
_READERS = 4  # hashing threads: hashlib releases the GIL, and one disk does not feed more


def check_digest(value: str) -> str:
    """``value`` if it is 64 lower-case hex digits, so that it is safe as a folder name."""
    if not _HEX.fullmatch(value):
        raise ValueError(f"{value!r} is no digest, expected 64 lower-case hex digits")
    return value


def check_path(value: str) -> str:
    """``value`` if it is a plain relative POSIX path that cannot leave the artifact's folder."""
    path = PurePosixPath(value)
    unsafe = path.is_absolute() or ".." in path.parts or "\\" in value or "\0" in value or value != str(path)
    if unsafe or not path.parts:
        raise ValueError(f"{value!r} is no safe relative path")
    return value


Digest = Annotated[str, AfterValidator(check_digest)]


class FileEntry(BaseModel):
    """One file of an artifact."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Annotated[str, AfterValidator(check_path)]
    sha256: Digest
    size: int = Field(ge=0, description="bytes")


class Manifest(BaseModel):
    """Everything that is known about an artifact besides its bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    stage: str
    stage_version: str
    config_digest: str
    inputs: dict[str, Digest]
    seed: int
    summary: dict[str, Any]
    files: list[FileEntry]
    versions: dict[str, str] = Field(default_factory=dict)
    created_at: datetime

    @property
    def digest(self) -> str:
        """Sha256 of the canonical JSON of everything but ``created_at`` and ``versions``, in hex."""
        return hashlib.sha256(canonical_json(self.model_dump(exclude={"created_at", "versions"}))).hexdigest()

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)

    def to_json(self) -> bytes:
        """The stored form, for people to read as well."""
        return json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True, ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, digest: str, data: bytes) -> "Manifest":
        """Parse what is stored under ``digest`` and check that it is what was stored."""
        try:
            manifest = cls.model_validate_json(data)
        except ValidationError as error:
            raise CorruptArtifact(digest, "manifest.json", f"unreadable ({error.error_count()} problems)") from None
        if manifest.digest != digest:
            raise CorruptArtifact(digest, "manifest.json", f"its content has the digest {manifest.digest[:12]}")
        return manifest


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys, no spaces, UTF-8, and neither NaN nor infinity (which JSON does not have)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def plain_summary(stage: str, summary: dict[str, Any]) -> dict[str, Any]:
    """``summary`` as it will be read back (tuples as lists, keys as strings), or an error that says why not."""
    try:
        return json.loads(json.dumps(summary, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InfraError(
            f"summary of stage {stage!r} is not plain JSON ({error}); return only str, int, finite float, bool, "
            "None, list and dict"
        ) from None


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_files(folder: Path) -> list[FileEntry]:
    """Entries of all files below ``folder``, sorted by path. Empty folders are not kept."""
    paths = []
    for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).as_posix()):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise InfraError(f"{path} is a link or a special file; an artifact may hold only plain files")
        if path.is_file():
            paths.append(path)
    with ThreadPoolExecutor(_READERS) as pool:
        digests = list(pool.map(sha256_of, paths))
    return [
        FileEntry(path=path.relative_to(folder).as_posix(), sha256=digest, size=path.stat().st_size)
        for path, digest in zip(paths, digests, strict=True)
    ]


def check_files(digest: str, files: Iterable[FileEntry], folder: Path) -> None:
    """Raise ``CorruptArtifact`` unless ``folder`` holds exactly these files with these sizes and sha256s."""
    files = list(files)
    expected = {entry.path for entry in files}
    for path in folder.rglob("*"):
        if not path.is_dir() and (name := path.relative_to(folder).as_posix()) not in expected:
            raise CorruptArtifact(digest, name, "the file was never committed")
    for entry in files:  # all sizes first: a truncated file is found without reading gigabytes
        path = folder / entry.path
        if not path.is_file():
            raise CorruptArtifact(digest, entry.path, "the file is missing")
        if (size := path.stat().st_size) != entry.size:
            raise CorruptArtifact(digest, entry.path, f"{size} bytes, {entry.size} were committed")
    with ThreadPoolExecutor(_READERS) as pool:
        actual = pool.map(lambda entry: sha256_of(folder / entry.path), files)
        for entry, sha256 in zip(files, actual, strict=True):
            if sha256 != entry.sha256:
                raise CorruptArtifact(digest, entry.path, "the content has changed (sha256 differs)")


def describe_versions() -> dict[str, str]:
    """Versions of what an artifact was made with, without importing any of it."""
    found = {"python": platform.python_version()}
    for package in ("qwenforge", "torch", "transformers", "tokenizers", "numpy", "pyarrow"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


__all__ = [
    "FileEntry", "Manifest", "canonical_json", "check_digest", "check_files", "check_path", "describe_files",
    "describe_versions", "now", "plain_summary", "sha256_of",
]  # fmt: skip
