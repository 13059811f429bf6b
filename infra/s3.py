"""Artifacts in an S3 bucket (AWS or any compatible server), with a verified local copy of whatever is read.

An upload puts the files first and ``manifest.json`` last, so a reader sees all of an artifact or nothing. Transient
errors are retried twice over: by boto3 within a request, and here, with exponential backoff, across an outage.
"""

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import boto3
from boto3.exceptions import RetriesExceededError, S3UploadFailedError
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
)
from tenacity import Retrying, before_sleep_log, retry_if_exception, stop_after_delay, wait_random_exponential

from infra.backends import CHUNK, LEFTOVER_AGE, LocalBackend, disk_errors
from infra.errors import CorruptArtifact, InfraError
from infra.manifest import FileEntry
from infra.settings import Settings

log = logging.getLogger(__name__)
T = TypeVar("T")

# 16 MiB parts: small enough to start early, large enough that requests do not dominate. Four files at once with four
# parts each keep a fast line busy, for one large file or many small ones alike.
_TRANSFER = TransferConfig(multipart_threshold=32 << 20, multipart_chunksize=16 << 20, max_concurrency=4)
_FILES_AT_ONCE = 4
_FIRST_CONTACT = 60.0  # seconds: an address that never answered is more likely wrong than its server away
_ABSENT = {"404", "NoSuchKey", "NotFound"}
_REMEDIES = {
    "NoSuchBucket": "create the bucket or correct QWENFORGE_STORE_URI",
    "AccessDenied": "grant the key read, write, list and delete on the prefix",
    "403": "grant the key read, write, list and delete on the prefix",
    "InvalidAccessKeyId": "correct QWENFORGE_S3_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "correct QWENFORGE_S3_SECRET_ACCESS_KEY",
}


def s3_client(settings: Settings) -> Any:
    """A boto3 client for the server and the credentials that ``settings`` name."""
    key, secret = settings.s3_access_key_id, settings.s3_secret_access_key
    return boto3.client(
        "s3",
        endpoint_url=settings.s3_endpoint_url or None,
        region_name=settings.s3_region,
        aws_access_key_id=key.get_secret_value() if key else None,
        aws_secret_access_key=secret.get_secret_value() if secret else None,
        config=Config(
            retries={"mode": "standard", "max_attempts": 4},
            connect_timeout=5,
            read_timeout=60,
            max_pool_connections=16,
            # Servers other than AWS are rarely reachable at bucket.host names.
            s3={"addressing_style": "path" if settings.s3_endpoint_url else "auto"},
        ),
    )


class S3Backend:
    """A bucket below a prefix. ``cache`` keeps local copies, in the layout of the local store."""

    remote = True

    def __init__(self, client: Any, uri: str, cache: LocalBackend, *, patience: float = 300.0) -> None:
        parts = urlsplit(uri)
        self.bucket = parts.netloc
        self.prefix = parts.path.strip("/") + "/" if parts.path.strip("/") else ""
        self.location = f"s3://{self.bucket}/{self.prefix}"
        self.cache = cache
        self._s3 = client
        self._patience = patience  # seconds that an outage may last
        self._try("open", lambda: client.head_bucket(Bucket=self.bucket))

    def publish(self, digest: str, manifest: bytes, folder: Path, files: Sequence[FileEntry]) -> None:
        with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
            list(pool.map(partial(self._upload, digest, folder), files))  # list: raises what a thread has raised
        self.write(f"objects/{digest}/manifest.json", manifest)
        self.cache.publish(digest, manifest, folder, files)  # the maker often reads it next

    def fetch(self, digest: str, files: Sequence[FileEntry]) -> Path:
        folder = self.cache.fetch(digest, files)
        if folder.is_dir():
            return folder
        staging = self.cache.new_staging()
        try:
            with disk_errors(self.cache.root):
                with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
                    list(pool.map(partial(self._download, digest, staging / "files"), files))
                self.cache.seal(staging, digest, self.read(f"objects/{digest}/manifest.json") or b"")
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return folder

    def _upload(self, digest: str, folder: Path, entry: FileEntry) -> None:
        key = self._key(f"objects/{digest}/files/{entry.path}")
        source = str(folder / entry.path)
        self._try(f"upload {entry.path}", lambda: self._s3.upload_file(source, self.bucket, key, Config=_TRANSFER))

    def _download(self, digest: str, folder: Path, entry: FileEntry) -> None:
        target = folder / entry.path
        target.parent.mkdir(parents=True, exist_ok=True)
        key = self._key(f"objects/{digest}/files/{entry.path}")
        try:
            self._try(
                f"download {entry.path}",
                lambda: self._s3.download_file(self.bucket, key, str(target), Config=_TRANSFER),
            )
        except ClientError as error:
            if _code(error) not in _ABSENT:
                raise
            raise CorruptArtifact(digest, entry.path, "the file is missing") from None

    def drop_copy(self, digest: str) -> bool:
        self.cache.remove(f"objects/{digest}")
        return True

    def sizes(self, digest: str) -> dict[str, int]:
        prefix = self._key(f"objects/{digest}/files/")
        return {item["Key"].removeprefix(prefix): item["Size"] for item in self._objects(prefix)}

    def chunks(self, digest: str, path: str) -> Iterator[bytes]:
        key = self._key(f"objects/{digest}/files/{path}")
        body = self._try(f"read {path}", lambda: self._s3.get_object(Bucket=self.bucket, Key=key)["Body"])
        yield from body.iter_chunks(CHUNK)

    def read(self, name: str) -> bytes | None:
        key = self._key(name)
        try:
            return self._try(f"read {name}", lambda: self._s3.get_object(Bucket=self.bucket, Key=key)["Body"].read())
        except ClientError as error:
            if _code(error) in _ABSENT:
                return None
            raise

    def write(self, name: str, data: bytes) -> None:
        key = self._key(name)
        self._try(f"write {name}", lambda: self._s3.put_object(Bucket=self.bucket, Key=key, Body=data))

    def names(self, folder: str) -> list[str]:
        prefix = self._key(f"{folder}/")
        pages = self._try(f"list {folder}", lambda: list(self._pages(prefix, Delimiter="/")))
        found = {item["Prefix"] for page in pages for item in page.get("CommonPrefixes", ())}
        found |= {item["Key"] for page in pages for item in page.get("Contents", ())}
        return sorted(name.removeprefix(prefix).strip("/") for name in found)

    def remove(self, name: str) -> None:
        self.cache.remove(name)
        # The manifest goes first: what is left without one does not exist.
        keys = [self._key(name), self._key(f"{name}/manifest.json")]
        if name.startswith("objects/"):
            keys = [keys[1], *(item["Key"] for item in self._objects(self._key(f"{name}/")))]
        self._delete(keys)

    def sweep(self) -> None:
        """Remove uploads without a manifest that nobody can still be writing, and old local leftovers."""
        before = datetime.now(UTC) - timedelta(seconds=LEFTOVER_AGE)
        for digest in self.names("objects"):
            if self.read(f"objects/{digest}/manifest.json") is None:
                objects = self._objects(self._key(f"objects/{digest}/"))
                if all(item["LastModified"] < before for item in objects):
                    log.info("removing %sobjects/%s, whose upload was never finished", self.location, digest)
                    self._delete([item["Key"] for item in objects])
        self.cache.sweep()

    def _key(self, name: str) -> str:
        return self.prefix + name

    def _pages(self, prefix: str, **options: str) -> Iterator[dict[str, Any]]:
        return self._s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix, **options)

    def _objects(self, prefix: str) -> list[dict[str, Any]]:
        pages = self._try(f"list {prefix}", lambda: list(self._pages(prefix)))
        return [item for page in pages for item in page.get("Contents", ())]

    def _delete(self, keys: list[str]) -> None:
        for key in keys:
            self._try(f"delete {key}", partial(self._s3.delete_object, Bucket=self.bucket, Key=key))

    def _try(self, action: str, call: Callable[[], T]) -> T:
        """``call``, repeated through an outage of up to ``patience`` seconds; what cannot heal is one clear line."""
        patience = self._patience_for(action)
        try:
            return Retrying(
                retry=retry_if_exception(_is_transient),
                wait=wait_random_exponential(multiplier=0.5, max=10),
                stop=stop_after_delay(patience),
                before_sleep=before_sleep_log(log, logging.WARNING),
                reraise=True,
            )(call)
        except NoCredentialsError:
            raise InfraError(
                f"no credentials for {self.location}; set QWENFORGE_S3_ACCESS_KEY_ID and "
                "QWENFORGE_S3_SECRET_ACCESS_KEY, or log in with the AWS tools"
            ) from None
        except ClientError as error:
            code = _code(error)
            if code == "404" and action == "open":
                code = "NoSuchBucket"
            if code in _REMEDIES:
                raise InfraError(f"cannot {action} in {self.location}: {code}; {_REMEDIES[code]}") from error
            if _is_transient(error):
                raise self._unreachable(action, error) from error
            raise
        except (BotoCoreError, S3UploadFailedError, RetriesExceededError) as error:
            raise self._unreachable(action, error) from error

    def _patience_for(self, action: str) -> float:
        return min(self._patience, _FIRST_CONTACT) if action == "open" else self._patience

    def _unreachable(self, action: str, error: Exception) -> InfraError:
        return InfraError(
            f"cannot {action} in {self.location} after {self._patience_for(action):.0f} s of trying: {error}; check "
            "the server and QWENFORGE_S3_ENDPOINT_URL, then run again"
        )


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _is_transient(error: BaseException) -> bool:
    """Whether waiting may help: no connection, a broken one, or the server's own trouble (5xx, throttling)."""
    if isinstance(error, S3UploadFailedError):  # raised while handling the real one
        return error.__context__ is not None and _is_transient(error.__context__)
    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return status >= 500 or status == 429 or _code(error) in {"RequestTimeout", "SlowDown", "Throttling"}
    return isinstance(error, (HTTPClientError, ConnectionError, IncompleteReadError, RetriesExceededError))


__all__ = ["S3Backend", "s3_client"]
