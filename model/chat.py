"""The ChatML conversation format of Qwen2.5: as the Jinja template that ships with a checkpoint, and as segments.

Both say what the published template says. The template serves other people's tools; the segments serve this platform,
because they keep control tokens apart from text: whatever a user writes stays text. They also take a call's arguments
as JSON text.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

Message = Mapping[str, Any]
"""``role`` (system, user, assistant, tool), ``content`` and, for an assistant, ``tool_calls``."""

DEFAULT_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."

_TOOLS_BEFORE = (
    "\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
_TOOLS_AFTER = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)


class Segment(NamedTuple):
    """A stretch of a rendered conversation."""

    text: str
    control: bool = False
    """``text`` is the name of one control token."""
    learned: bool = False
    """Part of an assistant's turn: its content, tool calls and closing <|im_end|>."""


START, END = "<|im_start|>", "<|im_end|>"
CALL_START, CALL_END = "<tool_call>", "</tool_call>"


def segments(
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = False,
    tools: Sequence[Any] | None = None,
    default_system: str | None = DEFAULT_SYSTEM,
) -> Iterator[Segment]:
    """The conversation as text and control tokens, in order.

    ``default_system`` stands where ``messages`` begin without a system message; None: no system turn then, but for
    ``tools``, which need one.
    """
    if not messages:
        raise ValueError("a conversation needs at least one message")
    system, rest = default_system, messages
    if messages[0]["role"] == "system":
        system, rest = messages[0]["content"], messages[1:]
    if system is not None or tools:
        yield from _system_turn(system or "", tools)
    for index, message in enumerate(rest):
        role = message["role"]
        if role == "assistant":
            yield from _assistant(message)
        elif role == "tool":
            yield from _tool_response(message, rest[index - 1] if index else None, rest[index + 1 : index + 2])
        elif role in ("user", "system"):
            yield Segment(START, control=True)
            yield Segment(f"{role}\n{message['content']}")
            yield from _end()
        else:
            raise ValueError(f"message {index}: role {role!r} is not system, user, assistant or tool")
    if add_generation_prompt:
        yield Segment(START, control=True)
        yield Segment("assistant\n")


def _system_turn(system: str, tools: Sequence[Any] | None) -> Iterator[Segment]:
    yield Segment(START, control=True)
    if tools:
        yield Segment("system\n" + system + _TOOLS_BEFORE + "".join("\n" + _json(tool) for tool in tools))
        yield from _with_call_tokens(_TOOLS_AFTER)
    else:
        yield Segment("system\n" + system)
    yield from _end()


def _end(*, learned: bool = False) -> Iterator[Segment]:
    yield Segment(END, control=True, learned=learned)
    yield Segment("\n")


def _assistant(message: Message) -> Iterator[Segment]:
    calls, content = message.get("tool_calls") or (), message.get("content") or ""
    yield Segment(START, control=True)
    yield Segment("assistant\n")
    if content:
        yield Segment(content + ("\n" if calls else ""), learned=True)
    for index, call in enumerate(calls):
        function = call.get("function", call)
        if index:
            yield Segment("\n", learned=True)
        yield Segment(CALL_START, control=True, learned=True)
        written = _json(_arguments(function["arguments"]))
        yield Segment(f'\n{{"name": "{function["name"]}", "arguments": {written}}}\n', learned=True)
        yield Segment(CALL_END, control=True, learned=True)
    yield from _end(learned=True)


def _arguments(arguments: Any) -> Any:
    """The wire format of chat APIs carries arguments as JSON text; a model should read the object in it, not a string
    full of escapes. Text that is no JSON object stays the string that the template would show."""
    if isinstance(arguments, str):
        try:
            parsed = json.loads(arguments)
        except ValueError:
            return arguments
        return parsed if isinstance(parsed, dict) else arguments
    return arguments


def _tool_response(message: Message, before: Message | None, after: Sequence[Message]) -> Iterator[Segment]:
    """Consecutive tool results form one user turn."""
    text = f"\n<tool_response>\n{message['content']}\n</tool_response>"
    if before is None or before["role"] != "tool":
        yield Segment(START, control=True)
        text = "user" + text
    yield Segment(text)
    if not after or after[0]["role"] != "tool":
        yield from _end()


def _with_call_tokens(text: str) -> Iterator[Segment]:
    """Our own instructions name the tool-call tags, which are control tokens."""
    while text:
        marks = [(text.find(mark), mark) for mark in (CALL_START, CALL_END) if mark in text]
        if not marks:
            yield Segment(text)
            return
        position, mark = min(marks)
        if position:
            yield Segment(text[:position])
        yield Segment(mark, control=True)
        text = text[position + len(mark) :]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _quoted(text: str) -> str:
    """A Jinja string literal."""
    return json.dumps(text, ensure_ascii=False)


CHAT_TEMPLATE = (
    """\
{%- if messages[0].role == 'system' %}
    {%- set system, rest = messages[0].content, messages[1:] %}
{%- else %}
    {%- set system, rest = """
    + _quoted(DEFAULT_SYSTEM)
    + """, messages %}
{%- endif %}
{{- '<|im_start|>system\\n' + system }}
{%- if tools %}
    {{- """
    + _quoted(_TOOLS_BEFORE)
    + """ }}
    {%- for tool in tools %}
        {{- '\\n' + (tool | tojson) }}
    {%- endfor %}
    {{- """
    + _quoted(_TOOLS_AFTER)
    + """ }}
{%- endif %}
{{- '<|im_end|>\\n' }}
{%- for message in rest %}
    {%- if message.role == 'assistant' %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if message.content %}
            {{- message.content + ('\\n' if message.tool_calls else '') }}
        {%- endif %}
        {%- for call in message.tool_calls or [] %}
            {%- set function = call.function if call.function else call %}
            {{- ('' if loop.first else '\\n') + '<tool_call>\\n{"name": "' + function.name + '", "arguments": ' }}
            {{- function.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == 'tool' %}
        {%- if loop.first or loop.previtem.role != 'tool' %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
        {%- if loop.last or loop.nextitem.role != 'tool' %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- elif message.role in ['user', 'system'] %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- else %}
        {{- raise_exception('role ' + message.role + ' is not system, user, assistant or tool') }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
)
"""What ``transformers`` and serving engines render."""
