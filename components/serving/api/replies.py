"""From the engine's events to what clients read: choices, their pieces, tool calls, log-probabilities, usage."""

import base64
import json
import secrets
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from model.chat import CALL_END, CALL_START
from model.generation.request import Event
from model.tokenizer import Tokenizer

# JSON has no infinity; OpenAI reports this for what cannot be.
_LEAST = -9999.0


class Choice:
    """One answer while it is written."""

    def __init__(self, calls: Literal["never", "auto", "required"] = "never") -> None:
        """``auto``: calls are looked for in the text; ``required``: the text is the JSON of one."""
        self.text = ""
        self.calls: list[dict[str, Any]] = []
        self.tokens: list[Event] = []
        self.finish: str | None = None
        self._calls, self._held = calls, ""

    def push(self, event: Event) -> tuple[str, list[dict[str, Any]]]:
        """Text and calls that are certain now."""
        if event.token is not None:
            self.tokens.append(event)
        self.finish = event.finish
        self._held += event.text
        if self._calls == "auto" and event.stop == CALL_END:
            self._held += CALL_END  # a stop string is no part of the text, and this one ends a call
        new: list[dict[str, Any]] = []
        if self._calls == "never":
            text, self._held = self._held, ""
        elif self._calls == "required":
            text = ""
            if event.finish is not None:
                call = _read_call(self._held, len(self.calls))
                text, new = ("", [call]) if call else (self._held, [])
        else:
            text, new = self._split(event.finish is not None)
        self.text += text
        self.calls += new
        if self.calls and event.finish == "stop":
            self.finish = "tool_calls"
        return text, new

    def _split(self, ended: bool) -> tuple[str, list[dict[str, Any]]]:
        said = ""
        new: list[dict[str, Any]] = []
        while True:
            before, mark, rest = self._held.partition(CALL_START)
            if not mark:
                kept = 0 if ended else _overlap(self._held, CALL_START)
                said += self._held[: len(self._held) - kept]
                self._held = self._held[len(self._held) - kept :]
                break
            said += before
            inside, end, after = rest.partition(CALL_END)
            if not end and not ended:
                self._held = mark + rest
                break
            call = _read_call(inside, len(self.calls) + len(new)) if end else None
            if call is None:
                said += mark + inside + end  # no call: what was written, as it was written
            else:
                new.append(call)
            self._held = after
        if (self.calls or new) and not said.strip():
            said = ""  # the line breaks between calls
        return said, new

    def visible(self) -> list[Event]:
        """Its tokens without the one that ended it."""
        ended = self.tokens and isinstance(self.tokens[-1].stop, int)
        return self.tokens[:-1] if ended else self.tokens


def _read_call(text: str, index: int) -> dict[str, Any] | None:
    try:
        call = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(call, dict) or not isinstance(call.get("name"), str) or "arguments" not in call:
        return None
    arguments = json.dumps(call["arguments"], ensure_ascii=False)
    function = {"name": call["name"], "arguments": arguments}
    return {"index": index, "id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}


def _overlap(text: str, mark: str) -> int:
    return next((n for n in range(min(len(text), len(mark) - 1), 0, -1) if text.endswith(mark[:n])), 0)


def chat_log_probs(events: list[Event], tokenizer: Tokenizer) -> dict[str, Any]:
    """The form of chat completions."""

    def entry(token: int, log_prob: float) -> dict[str, Any]:
        data = tokenizer.decode_bytes([token])
        return {"token": data.decode("utf-8", "replace"), "logprob": max(log_prob, _LEAST), "bytes": list(data)}

    content = [
        {**entry(event.token, event.log_prob), "top_logprobs": [entry(*pair) for pair in event.top]}
        for event in events
        if event.token is not None
    ]
    return {"content": content, "refusal": None}


def completion_log_probs(events: list[Event], tokenizer: Tokenizer, offset: int) -> dict[str, Any]:
    """The form of completions; ``offset``: characters of the answer before these tokens."""
    found: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}

    def show(token: int) -> str:
        return tokenizer.decode_bytes([token]).decode("utf-8", "replace")

    for event in events:
        assert event.token is not None
        text = show(event.token)
        found["tokens"].append(text)
        found["token_logprobs"].append(max(event.log_prob, _LEAST))
        found["top_logprobs"].append({show(token): max(value, _LEAST) for token, value in event.top})
        found["text_offset"].append(offset)
        offset += len(text)
    return found


def usage(prompt_tokens: int, choices: list[Choice]) -> dict[str, int]:
    """``prompt_tokens``: of each prompt once. A stop token counts: it was written."""
    written = sum(len(choice.tokens) for choice in choices)
    return {
        "prompt_tokens": prompt_tokens, "completion_tokens": written, "total_tokens": prompt_tokens + written,
    }  # fmt: skip


def embedding(index: int, mean: Sequence[float], encoding: Literal["float", "base64"] | None) -> dict[str, Any]:
    """The form of embeddings: of length 1, as numbers or as base64 of little-endian float32."""
    vector = np.asarray(mean, np.float64)
    vector = (vector / max(float(np.linalg.norm(vector)), 1e-12)).astype("<f4")
    value = base64.b64encode(vector.tobytes()).decode() if encoding == "base64" else vector.tolist()
    return {"object": "embedding", "index": index, "embedding": value}


def error_body(message: str, kind: str = "invalid_request_error", code: str | None = None) -> dict[str, Any]:
    """OpenAI's form of an error."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}
