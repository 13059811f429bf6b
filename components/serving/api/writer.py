"""Writes what an engine says as what a client reads: whole, or piece by piece as server-sent events."""

import json
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

from components.serving.api import replies
from components.serving.api.prompts import call_is_required
from components.serving.api.schema import ChatBody, CompletionBody
from components.serving.api.service import Service
from components.serving.api.worker import Answers, Broken, Refused, Worker
from model.generation.request import Event

Body = ChatBody | CompletionBody


class Writer:
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
        head = self._head | ({"usage": None} if with_usage else {})
        if self._is_chat:
            head["object"] = "chat.completion.chunk"
        start = f'data: {_json(head)[:-1]},"choices":'  # the same in every event
        written: list[str] = []
        try:
            if self._is_chat:
                first = {"role": "assistant", "content": ""}
                pieces = [_piece(index, delta=first) for index in range(len(self._choices))]
                yield "".join(f"{start}{_json([piece])}}}\n\n" for piece in pieces).encode()
            async for index, event in self._events():
                if pieces := self._pieces(index, event):
                    written.append(f"{start}{_json(pieces)}}}\n\n")
                # what came together leaves together: one write for all choices of a step, or where the client is slow
                if written and self._answers.events.empty():
                    yield "".join(written).encode()
                    written.clear()
            if with_usage:
                usage = replies.usage(self._prompt_tokens, self._choices)
                written.append(f"data: {_json({**head, 'choices': [], 'usage': usage})}\n\n")
            yield "".join([*written, "data: [DONE]\n\n"]).encode()
        except (Refused, Broken) as error:
            kind = "server_error" if isinstance(error, Broken) else "invalid_request_error"
            error_event = f"data: {_json(replies.error_body(str(error), kind))}\n\n"
            yield "".join([*written, error_event]).encode()

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


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
