"""A server process: the app under uvicorn, the alias watched, the engine drained at the end."""

import asyncio
import logging
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI

from components.serving.api.app import Service, make_app
from components.serving.api.worker import Worker

log = logging.getLogger(__name__)
Locate = Callable[[], tuple[str, Path]]
"""Digest and folder of the checkpoint that the name stands for now."""
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1", "[::1]")
_FLUSH_SECONDS = 5


@dataclass(frozen=True)
class ServerOptions:
    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: Sequence[str] = ()
    max_running: int = 64
    """Answers written at once."""
    max_queue: int = 256
    """Answers that may wait beyond those."""
    max_output: int = 8192
    """Tokens of one answer."""
    drain_seconds: int = 60
    """How long answers may go on after SIGTERM."""
    watch_seconds: float = 2.0
    """How often the alias is looked up."""


def serve(name: str, locate: Locate, device: str, options: ServerOptions) -> None:
    """Answer until SIGTERM or Ctrl-C: then nothing new is taken, and what is being written is finished."""
    worker = _load(name, *locate(), device, options)
    service = Service(worker, max_output=options.max_output)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.worker.start()
        tasks = [
            asyncio.create_task(_watch(service, locate, device, options)),
            asyncio.create_task(_drain(service, server, options.drain_seconds)),
        ]
        yield
        for task in tasks:
            task.cancel()
        service.worker.stop()

    # without keys a browser must not be led here by another name (DNS rebinding): only loopback's own names count
    hosts = None if options.api_keys else (*_LOOPBACK_NAMES, options.host)
    app = make_app(service, api_keys=options.api_keys, hosts=hosts, lifespan=lifespan)
    config = uvicorn.Config(
        app, host=options.host, port=options.port, log_level="warning", access_log=False,
        timeout_graceful_shutdown=_FLUSH_SECONDS,
    )  # fmt: skip
    server = _Server(config, service)
    # uvicorn raises a second signal again once it has ended: a wished end is no failure
    signal.signal(signal.SIGTERM, lambda *_: None)
    with suppress(KeyboardInterrupt):
        server.run()


class _Server(uvicorn.Server):
    """The first signal begins to drain, and the port stays open: whoever asks for health learns why nothing new is
    taken. The second one ends it at once."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._service.draining:
            self.force_exit = True
            super().handle_exit(sig, frame)
        self._service.draining = True


async def _drain(service: Service, server: uvicorn.Server, seconds: float) -> None:
    """End the server once it drains and every answer has ended, or ``seconds`` later."""
    while not service.draining:
        await asyncio.sleep(0.1)
    end = time.monotonic() + seconds
    while service.answering and time.monotonic() < end:
        await asyncio.sleep(0.05)
    server.should_exit = True


def _load(name: str, digest: str, folder: Path, device: str, options: ServerOptions) -> Worker:
    return Worker.load(
        name, digest, folder, device, max_running=options.max_running, max_queue=options.max_queue
    )  # fmt: skip


async def _watch(service: Service, locate: Locate, device: str, options: ServerOptions) -> None:
    """Serve what the alias means now. The old engine finishes its answers; a checkpoint that cannot be read changes
    nothing, and is tried again only once the alias has moved on."""
    seen = service.worker.digest
    while True:
        await asyncio.sleep(options.watch_seconds)
        try:
            digest, folder = await asyncio.to_thread(locate)
        except Exception as error:
            log.warning("the checkpoint of %s cannot be looked up: %s", service.worker.name, error)
            continue
        if digest == seen:
            continue
        seen = digest
        try:
            worker = await asyncio.to_thread(_load, service.worker.name, digest, folder, device, options)
        except Exception as error:
            service.metrics.swaps.labels("failed").inc()
            log.error("%s moved to %s, which cannot be served: %s", service.worker.name, digest[:12], error)
            continue
        worker.start()
        old, service.worker = service.worker, worker
        old.stop()
        service.metrics.swaps.labels("done").inc()
        log.warning("%s is now %s", worker.name, digest[:12])
