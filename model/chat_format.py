"""What a checkpoint says of its conversations: the Jinja template that it ships, and whether ``model.chat`` agrees.

This platform writes conversations itself, as segments, so that text cannot forge control tokens. A template of another
origin is therefore rendered once, on a few conversations, and compared. Most differ in the default system prompt alone.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from model.chat import CHAT_TEMPLATE, DEFAULT_SYSTEM, Message, segments


@dataclass(frozen=True)
class ChatFormat:
    """A template and the facts that ``segments`` needs to say the same."""

    template: str = CHAT_TEMPLATE
    default_system: str | None = DEFAULT_SYSTEM
    """Where a conversation has no system message; None: then it has no system turn."""
    problem: str = ""
    """Why ``segments`` cannot say what the template says; empty where it can."""


def chat_format(template: str | None) -> ChatFormat:
    """The facts of a checkpoint's template; those of Qwen2.5 where it has none."""
    if template is None or template == CHAT_TEMPLATE:
        return ChatFormat()
    try:
        told = [_render(template, conversation) for conversation in _PROBES]
    except Exception as error:  # a template is a program: anything may go wrong in it
        return ChatFormat(template, None, f"its chat template fails: {type(error).__name__}: {error}")
    found = re.match(r"<\|im_start\|>system\n(.*?)<\|im_end\|>\n<\|im_start\|>user\n", told[0], re.DOTALL)
    system = found[1] if found else None
    for conversation, theirs in zip(_PROBES, told, strict=True):
        ours = "".join(s.text for s in segments(conversation, add_generation_prompt=True, default_system=system))
        if ours != theirs:
            return ChatFormat(template, None, f"its chat template is not ChatML: it begins a turn with {theirs[:40]!r}")
    return ChatFormat(template, system)


_QUESTION = {"role": "user", "content": "Why?"}
_PROBES: tuple[list[Message], ...] = (
    [_QUESTION],
    [_QUESTION, {"role": "assistant", "content": "So."}, _QUESTION],
    [{"role": "system", "content": "Be brief."}, _QUESTION, {"role": "assistant", "content": "So."}, _QUESTION],
)


def _render(template: str, messages: list[Message]) -> str:
    """As ``transformers`` renders, in a sandbox: the template comes from whoever made the checkpoint."""
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(reason: str) -> None:
        raise ValueError(reason)

    def as_json(value: Any, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=False, **options)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = as_json
    environment.globals["raise_exception"] = refuse
    values = {"messages": messages, "tools": None, "add_generation_prompt": True, "bos_token": "", "eos_token": ""}
    return environment.from_string(template).render(**values)
