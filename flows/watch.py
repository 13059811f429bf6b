"""``qwenforge watch``: data that arrives under a watched prefix starts the recipes that are deployed with ``--watch``.

What is watched stands on the deployments themselves, as tags ``watch:PREFIX`` that Prefect's page shows, so this
process keeps nothing: a run is asked for with a key made of the content, and Prefect gives one run to a key. New files
are left to settle first: a listing has to stay the same for a while. Hidden files do not count.
"""

import hashlib
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any
from uuid import UUID

from flows.errors import UsageError, describe

log = logging.getLogger(__name__)

TAG = "watch:"
HEARTBEAT = "watcher.alive"
"""Touched under the home at every round."""


def check_prefix(prefix: str) -> str:
    """The prefix as it is written on a deployment: ``s3://bucket/prefix`` or an absolute folder."""
    if prefix.startswith("s3://"):
        if not prefix.removeprefix("s3://").partition("/")[0]:
            raise UsageError(f"--watch {prefix}: expected s3://bucket/prefix")
        return prefix
    if "://" in prefix:
        raise UsageError(f"--watch {prefix}: expected a folder or s3://bucket/prefix")
    return str(Path(prefix).expanduser().absolute())


def watch_command(every: float, settle: float) -> None:
    """Look at all watched prefixes every ``every`` seconds, until the process is ended."""
    from flows.deploy import prefect_client
    from infra.settings import load_settings

    heartbeat = load_settings().home / HEARTBEAT
    with prefect_client() as client:
        print(f"watching every {every:g} s for data that is the same for {settle:g} s", flush=True)
        watcher = Watcher(client, settle)
        while True:
            watcher.look()
            heartbeat.touch()
            time.sleep(every)


class Watcher:
    """``settle``: seconds that a listing has to stay the same before its content starts a run."""

    def __init__(self, client: Any, settle: float) -> None:
        self._client, self._settle = client, settle
        self._seen: dict[str, tuple[str, float]] = {}  # prefix -> listing, since when
        self._asked: set[tuple[UUID, str, str]] = set()

    def look(self) -> list[UUID]:
        """One round: the flow runs that settled data has been given for the first time by this process."""
        runs: list[UUID] = []
        with outage_logged("Prefect"):
            for deployment, prefix in watched(self._client):
                with outage_logged(prefix):
                    if (digest := self._settled(prefix)) and (
                        asked := (deployment.id, prefix, digest)
                    ) not in self._asked:
                        runs.append(self._start(deployment, prefix, digest))
                        self._asked.add(asked)
        return runs

    def _settled(self, prefix: str) -> str:
        """Digest of what lies under the prefix, once it has settled; before that, or if it is empty, ''."""
        from components.data.locations import locate

        try:
            files = locate(Path(), prefix, ("**/*",))
        except FileNotFoundError:
            files = []
        listing = "\n".join(f"{file.name}\0{file.state}" for file in files)
        before, since = self._seen.get(prefix, ("", 0.0))
        if listing != before:
            since = time.monotonic()
            self._seen[prefix] = listing, since
        if not files or time.monotonic() - since < self._settle:
            return ""
        digest = hashlib.sha256()
        for file in files:
            # S3's entity tag is made of the content already
            content = file.state if prefix.startswith("s3://") else file_digest(Path(prefix) / file.name, file.state)
            digest.update(f"{file.name}\0{content}\n".encode())
        return digest.hexdigest()

    def _start(self, deployment: Any, prefix: str, digest: str) -> UUID:
        """The run with this content: a new one, or the one that Prefect knows by the key already."""
        run = self._client.create_flow_run_from_deployment(
            deployment.id, idempotency_key=f"{TAG}{deployment.id}:{prefix}:{digest}", tags=["data-arrived"]
        )
        print(f"{prefix} {digest[:12]}: {deployment.name} runs as {run.name} ({run.id})", flush=True)
        return run.id


def watched(client: Any) -> list[tuple[Any, str]]:
    """(deployment, prefix) of everything that is watched; a paused deployment watches nothing."""
    return [
        (deployment, tag.removeprefix(TAG))
        for deployment in client.read_deployments()
        if not deployment.paused
        for tag in deployment.tags
        if tag.startswith(TAG)
    ]


@lru_cache(maxsize=100_000)
def file_digest(path: Path, state: str) -> str:
    """Of a local file; read again only when ``state`` (size and time of change) is another one."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def outage_logged(what: str) -> Iterator[None]:
    """Whatever is out of reach now may be there in the next round."""
    import httpx

    try:
        yield
    except (OSError, httpx.HTTPError) as error:
        log.warning("%s: %s; trying again", what, describe(error))


__all__ = ["HEARTBEAT", "TAG", "Watcher", "check_prefix", "watch_command"]
