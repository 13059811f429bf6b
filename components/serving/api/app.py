"""The routes. An answer's life: a body is checked, its requests are queued together, their events are written out as
they come; when the client leaves, whatever is not written yet is cancelled."""

import asyncio
import hmac
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

from fastapi import Depends, FastAPI, HTTPException, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import Receive, Scope, Send

from components.serving.api import replies
from components.serving.api.limits import Limits
from components.serving.api.prompts import chat_requests, completion_requests, embedding_requests
from components.serving.api.schema import MAX_CHOICES, ChatBody, CompletionBody, EmbeddingBody
from components.serving.api.service import Draining, Service
from components.serving.api.worker import Broken, Full, Refused, Worker
from components.serving.api.writer import Body, Writer
from model.generation.request import Request as EngineRequest


def make_app(
    service: Service, *, api_keys: Sequence[str] = (), hosts: Sequence[str] | None = None,
    max_body_bytes: int = 8 * 2**20,
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]] | None = None,
) -> FastAPI:  # fmt: skip
    """``api_keys``: one of them is needed for everything under /v1; none: no key is asked for. ``hosts``: names that a
    request's Host may have; None: any."""
    app = FastAPI(title="qwenforge", description="OpenAI-compatible API", lifespan=lifespan)
    app.add_middleware(Limits, metrics=service.metrics, max_bytes=max_body_bytes)
    if hosts is not None:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)
    _add_errors(app, service)
    bearer = HTTPBearer(auto_error=False, description="an API key")

    def check_key(given: HTTPAuthorizationCredentials | None = Security(bearer)) -> None:  # noqa: B008
        known = [key.encode() for key in api_keys]
        key = given.credentials.encode() if given else b""
        if known and not any(hmac.compare_digest(key, each) for each in known):
            raise HTTPException(401, "no valid API key: send Authorization: Bearer KEY", {"WWW-Authenticate": "Bearer"})

    @app.get("/health")
    async def health() -> Response:
        worker = service.worker
        status = "broken" if worker.dead else "draining" if service.draining else "ok"
        facts = {"status": status, "model": worker.name, "digest": worker.digest}
        return JSONResponse(facts, 200 if status == "ok" else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return PlainTextResponse(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/models", dependencies=[Depends(check_key)])
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(service.worker)]}

    @app.get("/v1/models/{model:path}", dependencies=[Depends(check_key)])
    async def model(model: str) -> dict[str, Any]:
        return _model(_worker(service, model))

    @app.post("/v1/completions", dependencies=[Depends(check_key)])
    async def completions(body: CompletionBody, request: Request) -> Response:
        worker = _worker(service, body.model)
        return await _answer(
            service, worker, body, completion_requests(body, worker.tokenizer, service.max_output), request
        )

    @app.post("/v1/chat/completions", dependencies=[Depends(check_key)])
    async def chat_completions(body: ChatBody, request: Request) -> Response:
        worker = _worker(service, body.model)
        return await _answer(service, worker, body, chat_requests(body, worker.tokenizer, service.max_output), request)

    @app.post("/v1/embeddings", dependencies=[Depends(check_key)])
    async def embeddings(body: EmbeddingBody, request: Request) -> Response:
        worker = _worker(service, body.model)
        return await _unless_left(request, _embed(service, worker, body))

    return app


def _model(worker: Worker) -> dict[str, Any]:
    return {
        "id": worker.name, "object": "model", "created": worker.created, "owned_by": "qwenforge",
        "digest": worker.digest, "context_length": worker.context,
    }  # fmt: skip


def _worker(service: Service, name: str) -> Worker:
    if name != service.worker.name:
        raise HTTPException(404, f"there is no model {name!r} here, only {service.worker.name!r}")
    return service.worker


async def _answer(
    service: Service, worker: Worker, body: Body, requests: list[EngineRequest], http: Request
) -> Response:  # fmt: skip
    answers = await service.ask(worker, requests)
    # each prompt once: choices of one prompt stand together
    prompt_tokens = sum(len(request.prompt) for request in requests[:: body.n or 1])
    writer = Writer(service, worker, body, answers, prompt_tokens)
    if body.stream:
        return _Stream(writer.stream(), partial(service.leave, answers))
    try:
        return await _unless_left(http, writer.whole())
    finally:
        service.leave(answers)


class _Stream(StreamingResponse):
    """Server-sent events; ``ended`` is called however the response ends, also where it never began."""

    def __init__(self, events: AsyncIterator[bytes], ended: Callable[[], None]) -> None:
        super().__init__(events, media_type="text/event-stream")
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ended()


async def _embed(service: Service, worker: Worker, body: EmbeddingBody) -> dict[str, Any]:
    """A few texts at a time, so that a long list shares the queue with others."""
    requests = embedding_requests(body, worker.tokenizer)
    data: list[dict[str, Any]] = []
    at_once = min(MAX_CHOICES, worker.max_open)
    for begin in range(0, len(requests), at_once):
        answers = await service.ask(worker, requests[begin : begin + at_once])
        found: dict[int, Any] = {}
        try:
            async for index, event in answers:
                found[index] = event.embedding
        finally:
            service.leave(answers)
        data += [replies.embedding(begin + index, found[index], body.encoding_format) for index in sorted(found)]
    tokens = sum(len(request.prompt) for request in requests)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": worker.name, "usage": usage}


async def _unless_left(http: Request, answer: Coroutine[Any, Any, dict[str, Any]]) -> Response:
    """The answer as JSON; its coroutine is cancelled when the client leaves before."""
    leaving, answering = asyncio.create_task(_until_left(http)), asyncio.create_task(answer)
    try:
        await asyncio.wait((leaving, answering), return_when=asyncio.FIRST_COMPLETED)
        return JSONResponse(answering.result()) if answering.done() else Response(status_code=499)
    finally:
        leaving.cancel()
        answering.cancel()


async def _until_left(http: Request) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


def _add_errors(app: FastAPI, service: Service) -> None:
    """Every refusal in OpenAI's form. ASCII only: what a client sent may be no Unicode at all."""

    def reply(status: int, message: str, kind: str = "invalid_request_error", **headers: str) -> Response:
        body = json.dumps(replies.error_body(message, kind))
        return Response(body, status, headers, media_type="application/json")

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"] if part != "body")
        return reply(400, f"{place}: {problem['msg']}" if place else str(problem["msg"]))

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> Response:
        return reply(400, str(error))

    @app.exception_handler(Full)
    async def full(_: Request, error: Full) -> Response:
        service.metrics.rejected.inc()
        return reply(429, str(error), "rate_limit_error", **{"Retry-After": str(error.retry_after)})

    @app.exception_handler(Draining)
    async def draining(_: Request, error: Draining) -> Response:
        return reply(503, str(error), "server_error")

    @app.exception_handler(Broken)
    async def broken(_: Request, error: Broken) -> Response:
        return reply(503, str(error), "server_error")

    @app.exception_handler(StarletteHTTPException)
    async def known(_: Request, error: StarletteHTTPException) -> Response:
        kind = "authentication_error" if error.status_code == 401 else "invalid_request_error"
        return reply(error.status_code, str(error.detail), kind, **(error.headers or {}))
