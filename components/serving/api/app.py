"""The routes. An answer's life: a body is checked, its requests are queued together, their events are written out as
they come; when the client leaves, whatever is not written yet is cancelled."""

import asyncio
import hmac
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from fastapi import Depends, FastAPI, HTTPException, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException as StarletteHTTPException

from components.serving.api import replies
from components.serving.api.limits import Limits
from components.serving.api.metrics import Metrics
from components.serving.api.prompts import call_is_required, chat_requests, completion_requests
from components.serving.api.schema import ChatBody, CompletionBody
from components.serving.api.worker import Answers, Broken, Full, Refused, Worker
from model.generation.request import Event
from model.generation.request import Request as EngineRequest

Body = ChatBody | CompletionBody


class Service:
    """What the routes share. ``worker`` is replaced when another checkpoint takes over; answers keep theirs."""

    def __init__(self, worker: Worker, *, max_output: int) -> None:
        self.worker, self.max_output = worker, max_output
        self.metrics = Metrics(lambda: self.worker)

    def leave(self, answers: Answers) -> None:
        """The client has all it wanted, or has left."""
        self.metrics.cancelled.inc(answers.left)
        answers.close()


def make_app(
    service: Service, *, api_keys: Sequence[str] = (), max_body_bytes: int = 8 * 2**20,
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]] | None = None,
) -> FastAPI:  # fmt: skip
    """``api_keys``: one of them is needed for everything under /v1; none: no key is asked for."""
    app = FastAPI(title="qwenforge", description="OpenAI-compatible API", lifespan=lifespan)
    app.add_middleware(Limits, metrics=service.metrics, max_bytes=max_body_bytes)
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
        facts = {"status": "broken" if worker.dead else "ok", "model": worker.name, "digest": worker.digest}
        return JSONResponse(facts, 503 if worker.dead else 200)

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
    answers = await worker.ask(requests)
    # each prompt once: choices of one prompt stand together
    prompt_tokens = sum(len(request.prompt) for request in requests[:: body.n or 1])
    writer = _Writer(service, worker, body, answers, prompt_tokens)
    if body.stream:
        return StreamingResponse(writer.stream(), media_type="text/event-stream")
    leaving = asyncio.create_task(_until_left(http))
    writing = asyncio.create_task(writer.whole())
    try:
        await asyncio.wait((leaving, writing), return_when=asyncio.FIRST_COMPLETED)
        return JSONResponse(writing.result()) if writing.done() else Response(status_code=499)
    finally:
        leaving.cancel()
        writing.cancel()
        service.leave(answers)


async def _until_left(http: Request) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


class _Writer:
    """Writes the answers to one body, whole or in pieces."""

    def __init__(self, service: Service, worker: Worker, body: Body, answers: Answers, prompt_tokens: int) -> None:
        self._service, self._worker, self._body, self._answers = service, worker, body, answers
        self._prompt_tokens = prompt_tokens
        self._is_chat = isinstance(body, ChatBody)
        calls: Any = "never"
        if isinstance(body, ChatBody) and body.tools and body.tool_choice != "none":
            calls = "required" if call_is_required(body) else "auto"
        self._choices = [replies.Choice(calls) for _ in range(answers.number)]
        prefix, kind = ("chatcmpl", "chat.completion") if self._is_chat else ("cmpl", "text_completion")
        self._head: dict[str, Any] = {
            "id": f"{prefix}-{secrets.token_hex(12)}", "object": kind, "created": int(time.time()),
            "model": worker.name, "system_fingerprint": worker.digest[:12] or None,
        }  # fmt: skip

    async def whole(self) -> dict[str, Any]:
        async for index, event in self._events():
            self._choices[index].push(event)
        choices = []
        for index, choice in enumerate(self._choices):
            shared = {"index": index, "finish_reason": choice.finish}
            log_probs = self._log_probs(choice.visible(), 0)
            if not self._is_chat:
                choices.append({**shared, "text": choice.text, "logprobs": log_probs})
                continue
            message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": None}
            if choice.calls:
                plain = [{key: call[key] for key in ("id", "type", "function")} for call in choice.calls]
                message |= {"content": choice.text.strip() or None, "tool_calls": plain}
            choices.append({**shared, "message": message, "logprobs": log_probs})
        return {**self._head, "choices": choices, "usage": replies.usage(self._prompt_tokens, self._choices)}

    async def stream(self) -> AsyncIterator[bytes]:
        """Server-sent events; the last one is ``[DONE]``, or an error."""
        options = self._body.stream_options
        with_usage = options is not None and options.include_usage
        empty = {"usage": None} if with_usage else {}
        head = {**self._head, **empty}
        if self._is_chat:
            head["object"] = "chat.completion.chunk"
        try:
            if self._is_chat:
                for index in range(len(self._choices)):
                    first = {"role": "assistant", "content": ""}
                    yield _sse({**head, "choices": [_piece(index, delta=first)]})
            async for index, event in self._events():
                pieces = self._pieces(index, event)
                if pieces:
                    yield _sse({**head, "choices": pieces})
            if with_usage:
                yield _sse({**head, "choices": [], "usage": replies.usage(self._prompt_tokens, self._choices)})
            yield b"data: [DONE]\n\n"
        except (Refused, Broken) as error:
            yield _sse(
                replies.error_body(str(error), "server_error" if isinstance(error, Broken) else "invalid_request_error")
            )
        finally:
            self._service.leave(self._answers)

    def _pieces(self, index: int, event: Event) -> list[dict[str, Any]]:
        choice = self._choices[index]
        said = len(choice.text)
        text, calls = choice.push(event)
        shown = [event] if event.token is not None and not isinstance(event.stop, int) else []
        log_probs = self._log_probs(shown, said) if shown else None
        if not (text or calls or log_probs or choice.finish):
            return []
        if not self._is_chat:
            return [_piece(index, text=text, finish_reason=choice.finish, logprobs=log_probs)]
        delta: dict[str, Any] = {"content": text} if text else {}
        if calls:
            delta["tool_calls"] = calls
        return [_piece(index, delta=delta, finish_reason=choice.finish, logprobs=log_probs)]

    def _log_probs(self, events: list[Event], offset: int) -> dict[str, Any] | None:
        if isinstance(self._body, ChatBody):
            return replies.chat_log_probs(events, self._worker.tokenizer) if self._body.logprobs else None
        if self._body.logprobs is None:
            return None
        return replies.completion_log_probs(events, self._worker.tokenizer, offset)

    async def _events(self) -> AsyncIterator[tuple[int, Event]]:
        """As they come, timed; Refused where an answer cannot go on."""
        metrics = self._service.metrics
        last: dict[int, float] = {}
        async for index, event in self._answers:
            now = time.monotonic()
            if index in last:
                metrics.inter_token.observe(now - last[index])
            else:
                metrics.first_token.observe(now - self._answers.started)
            last[index] = now
            if event.error is not None:
                raise Refused(event.error)
            yield index, event


def _piece(index: int, *, finish_reason: str | None = None, logprobs: Any = None, **content: Any) -> dict[str, Any]:
    return {"index": index, **content, "logprobs": logprobs, "finish_reason": finish_reason}


def _sse(value: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(value, separators=(',', ':'))}\n\n".encode()


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

    @app.exception_handler(Broken)
    async def broken(_: Request, error: Broken) -> Response:
        return reply(503, str(error), "server_error")

    @app.exception_handler(StarletteHTTPException)
    async def known(_: Request, error: StarletteHTTPException) -> Response:
        kind = "authentication_error" if error.status_code == 401 else "invalid_request_error"
        return reply(error.status_code, str(error.detail), kind, **(error.headers or {}))
