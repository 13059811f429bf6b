"""What every request passes: the size of its body, and a count of how it was answered. Plain ASGI, so that it stays out
of a stream's way."""

import json

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from components.serving.api.metrics import Metrics
from components.serving.api.replies import error_body

_PATHS = ("/v1/models", "/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/health", "/metrics")


class _TooLarge(Exception):
    pass


class Limits:
    """Refuses bodies of more than ``max_bytes`` with 413."""

    def __init__(self, app: ASGIApp, metrics: Metrics, max_bytes: int) -> None:
        self._app, self._metrics, self._max_bytes = app, metrics, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in _PATHS else "other"
        received, started = 0, False

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                raise _TooLarge
            return message

        async def counted(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                self._metrics.requests.labels(path, str(message["status"])).inc()
            await send(message)

        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self._max_bytes:
            await self._refuse(counted)
            return
        try:
            await self._app(scope, limited, counted)
        except _TooLarge:
            if not started:
                await self._refuse(counted)

    async def _refuse(self, send: Send) -> None:
        body = json.dumps(error_body(f"the request is larger than {self._max_bytes:,} bytes")).encode()
        headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": body})
