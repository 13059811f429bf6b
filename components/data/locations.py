"""Where files lie: a local file or folder, or a prefix of an S3 bucket, listed in a fixed order and read as streams.

S3 is reached with boto3's own credential chain and ``AWS_ENDPOINT_URL``: whoever owns the documents need not own the
artifact store. Objects are read by range, so a broken connection costs a retry, and Parquet needs no local copy.
"""

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

ATTEMPTS = 4
"""Connections tried at one place of an object before reading fails."""
BUFFER = 1 << 20
"""Bytes read from an object at once."""


@dataclass(frozen=True)
class Location:
    """One file: its name below the source's path, what tells a changed file from the old one, and how to open it."""

    name: str
    state: str
    open: Callable[[], BinaryIO]


def locate(base: Path, path: str, members: Sequence[str]) -> list[Location]:
    """The files of ``path`` that match ``members``, by name, hidden ones left out; ``base`` is where it starts.

    Raises FileNotFoundError where there is nothing, OSError where a bucket cannot be listed.
    """
    if path.startswith("s3://"):
        return objects(path, members)
    root = base / path
    if not root.exists():
        raise FileNotFoundError(f"there is no file or folder {root}")
    return [local(file, file.relative_to(root).as_posix()) for file in local_files(root, members)]


def local(file: Path, name: str) -> Location:
    """``name`` is ``.`` where the path is the file itself."""
    facts = file.stat()
    return Location(
        file.name if name == "." else name,
        f"{file.name}\0{facts.st_size}\0{facts.st_mtime_ns}",
        lambda: file.open("rb"),
    )


def local_files(path: Path, members: Sequence[str]) -> list[Path]:
    """The file itself, or the files of a folder that match ``members``, sorted by name; hidden ones are left out."""
    if path.is_file():
        return [path]
    found = {file for pattern in members for file in path.glob(pattern) if file.is_file()}
    return sorted(f for f in found if not any(part.startswith(".") for part in f.relative_to(path).parts))


def fingerprint(base: Path, path: str, members: Sequence[str]) -> str:
    """Digest of names, sizes and change times (S3: entity tags): notices a change without reading terabytes."""
    digest = hashlib.sha256()
    for location in locate(base, path, members):
        digest.update(f"{location.state}\n".encode())
    return digest.hexdigest()[:16]


def objects(uri: str, members: Sequence[str]) -> list[Location]:
    """Objects under ``s3://bucket/prefix``, or the one object of that name."""
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    found = []
    try:
        for page in client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for entry in page.get("Contents", ()):
                name = relative(entry["Key"], prefix)
                if name and matches(name, members):
                    found.append((name, entry))
    except (BotoCoreError, ClientError) as error:
        raise OSError(f"cannot list {uri}: {error}; see AWS_ENDPOINT_URL and the AWS credentials") from None
    if not found:
        raise FileNotFoundError(f"there is no object under {uri} that matches {', '.join(members)}")
    return [
        Location(name, f"{name}\0{entry['Size']}\0{entry['ETag']}", opener(bucket, entry["Key"], entry["Size"]))
        for name, entry in sorted(found, key=lambda item: item[0])
    ]


def relative(key: str, prefix: str) -> str:
    """Name of an object below a prefix; empty for folder marks, hidden files and neighbours that only begin alike."""
    if key == prefix:
        return key.rpartition("/")[2]
    folder = prefix if not prefix or prefix.endswith("/") else prefix + "/"
    name = key.removeprefix(folder)
    outside = not key.startswith(folder) or key.endswith("/")
    return "" if outside or any(part.startswith(".") for part in name.split("/")) else name


def matches(name: str, members: Sequence[str]) -> bool:
    """Whether a name matches a pattern; ``**/`` also stands for no folder at all."""
    return any(fnmatch(name, p) or (p.startswith("**/") and fnmatch(name, p[3:])) for p in members)


def opener(bucket: str, key: str, size: int) -> Callable[[], BinaryIO]:
    return lambda: io.BufferedReader(ObjectStream(bucket, key, size), BUFFER)


@cache
def client() -> Any:
    import boto3

    return boto3.Session().client("s3")  # the default session would keep the first credentials that it saw


class ObjectStream(io.RawIOBase):
    """One object, read from wherever it stands; a connection that breaks is made anew at that place."""

    def __init__(self, bucket: str, key: str, size: int) -> None:
        self.bucket, self.key, self.size = bucket, key, size
        self.position = 0
        self.body: Any = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        if start + offset != self.position:
            self.body, self.position = None, start + offset
        return self.position

    def readinto(self, buffer: Any) -> int:
        from botocore.exceptions import BotoCoreError, ClientError

        if self.position >= self.size:
            return 0
        for attempt in range(ATTEMPTS):
            try:
                if self.body is None:
                    span = f"bytes={self.position}-"
                    self.body = client().get_object(Bucket=self.bucket, Key=self.key, Range=span)["Body"]
                data = self.body.read(len(buffer))
                break
            except (BotoCoreError, ClientError, OSError) as error:
                self.body = None
                if attempt == ATTEMPTS - 1:
                    raise OSError(f"s3://{self.bucket}/{self.key} at byte {self.position}: {error}") from None
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)
