"""Talks to the model API (``qwenforge serve``) for the playground: which checkpoints answer, and their answers as they
are written."""

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

_LOOK_SECONDS = 2.0
_SILENT_SECONDS = 120.0


class ApiError(Exception):
    """The API cannot be reached, or refuses; says why."""


@dataclass(frozen=True)
class Model:
    """A checkpoint that answers somewhere."""

    url: str
    name: str
    digest: str

    @property
    def label(self) -> str:
        return f"{self.name} ({self.digest[:8] or 'folder'}) at {httpx.URL(self.url).netloc.decode()}"


@dataclass
class Token:
    """One token that was written."""

    data: bytes
    """Its text in UTF-8, which may be part of a character."""
    log_prob: float
    others: list[tuple[str, float]]
    """The likeliest at its place, with their log p."""


@dataclass
class Answer:
    """What has come of an answer so far."""

    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    finish: str = ""
    error: str = ""
    first_seconds: float = 0.0
    seconds: float = 0.0

    @property
    def perplexity(self) -> float:
        """Of the answer under the model that wrote it."""
        return math.exp(-sum(token.log_prob for token in self.tokens) / max(len(self.tokens), 1))

    def message(self) -> dict[str, Any]:
        """As a turn of the conversation."""
        calls = [{name: call[name] for name in ("id", "type", "function")} for call in self.calls]
        return {"role": "assistant", "content": self.text or None} | ({"tool_calls": calls} if calls else {})


def models(urls: Sequence[str], key: str) -> tuple[list[Model], list[str]]:
    """The checkpoints behind the addresses, and a line for each address that has none to offer."""
    found: list[Model] = []
    silent: list[str] = []
    for url in urls:
        try:
            reply = httpx.get(f"{url}/v1/models", headers=_headers(key), timeout=_LOOK_SECONDS)
            if reply.status_code == 401:
                silent.append(f"{url} asks for a key: set QWENFORGE_API_KEYS for the dashboard too")
                continue
            reply.raise_for_status()
            found += [Model(url, each["id"], each.get("digest", "")) for each in reply.json()["data"]]
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError):
            silent.append(f"{url} does not answer")
    return found, silent


def chat(model: Model, key: str, body: dict[str, Any]) -> Iterator[Answer]:
    """Ask for a streamed chat completion: the same answer again and again, each time with more in it; ApiError."""
    answer, begin = Answer(), time.monotonic()
    sent = {"model": model.name, "stream": True, **body}
    timeout = httpx.Timeout(_SILENT_SECONDS, connect=_LOOK_SECONDS)
    try:
        with httpx.stream(
            "POST", f"{model.url}/v1/chat/completions", json=sent, headers=_headers(key), timeout=timeout
        ) as reply:
            if reply.status_code != 200:
                reply.read()
                raise ApiError(_message(reply.text) or f"{model.url} answered {reply.status_code}")
            for line in reply.iter_lines():
                data = line.removeprefix("data: ")
                if data == line or data == "[DONE]":
                    continue
                _add(answer, data)
                answer.seconds = time.monotonic() - begin
                answer.first_seconds = answer.first_seconds or (answer.seconds if answer.tokens else 0.0)
                yield answer
    except httpx.HTTPError as error:
        raise ApiError(f"{model.url} broke off: {error}") from None


def _add(answer: Answer, data: str) -> None:
    event = json.loads(data)
    if "error" in event:
        raise ApiError(event["error"]["message"])
    for choice in event["choices"]:
        answer.text += choice["delta"].get("content") or ""
        answer.calls += choice["delta"].get("tool_calls") or []
        answer.finish = choice["finish_reason"] or answer.finish
        for each in (choice.get("logprobs") or {}).get("content") or []:
            others = [(other["token"], other["logprob"]) for other in each["top_logprobs"]]
            answer.tokens.append(Token(bytes(each["bytes"]), each["logprob"], others))


def _headers(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}


def _message(text: str) -> str:
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return ""
