"""Conversations in the forms that others use, in and out.

Inside, a conversation is OpenAI's ``messages`` (with ``tool_calls``) and perhaps ``tools``. ShareGPT's
``conversations`` and Alpaca's ``instruction``, ``input``, ``output`` and ``history`` become that, and it becomes them.
"""

import json
from collections.abc import Mapping
from typing import Any, Literal

Form = Literal["messages", "sharegpt", "alpaca"]
Messages = list[dict[str, Any]]


class Unreadable(ValueError):
    """A record that cannot be understood or must not be trained on; the message is the reason."""


FROM_SHAREGPT = {
    "system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
    "chatgpt": "assistant", "bing": "assistant", "model": "assistant", "observation": "tool", "tool": "tool",
    "function_response": "tool",
}  # fmt: skip
"""``function_call`` is an assistant's turn of its own form."""
TO_SHAREGPT = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}


def parse(row: Any) -> tuple[Messages, list[Any]]:
    """``(messages, tools)`` of a record in any of the forms. Unreadable says what is wrong with it."""
    if not isinstance(row, Mapping):
        raise Unreadable(f"a record is an object, this is {_kind(row)}")
    if row.get("messages") is not None:
        messages = [_message(turn) for turn in _turns(row["messages"], "messages")]
    elif row.get("conversations") is not None:
        messages = [_from_sharegpt(turn) for turn in _turns(row["conversations"], "conversations")]
    elif row.get("instruction") is not None:
        messages = _from_alpaca(row)
    else:
        raise Unreadable("none of messages, conversations and instruction is there")
    system = row.get("system")
    if isinstance(system, str) and system.strip() and (not messages or messages[0]["role"] != "system"):
        messages.insert(0, {"role": "system", "content": system})
    return messages, _tools(row.get("tools"))


def written(messages: Messages, tools: list[Any], form: Form) -> dict[str, Any]:
    """A record in the asked form. Unreadable where the form has no place for what is in it."""
    extra = {"tools": tools} if tools else {}
    if form == "messages":
        return {"messages": messages, **extra}
    if form == "sharegpt":
        turns = [turn for message in messages for turn in _to_sharegpt(message)]
        return {"conversations": turns, **({"tools": json.dumps(tools, ensure_ascii=False)} if tools else {})}
    system = messages[0]["content"] if messages[0]["role"] == "system" else ""
    rest = messages[1:] if system else messages
    roles = [message["role"] for message in rest]
    if tools or roles != ["user", "assistant"] * (len(rest) // 2) or not rest:
        raise Unreadable("alpaca has no place for tools or for turns that are not one question, one answer")
    pairs = [[one["content"], other["content"]] for one, other in zip(rest[::2], rest[1::2], strict=True)]
    return {
        "instruction": pairs[-1][0], "input": "", "output": pairs[-1][1],
        **({"system": system} if system else {}), **({"history": pairs[:-1]} if len(pairs) > 1 else {}),
    }  # fmt: skip


def _turns(value: Any, name: str) -> list[Mapping[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(turn, Mapping) for turn in value):
        raise Unreadable(f"{name} is a list of objects, this is {_kind(value)}")
    return value


def _message(turn: Mapping[str, Any]) -> dict[str, Any]:
    """One of OpenAI's; content in parts is joined where all of them are text."""
    message: dict[str, Any] = {"role": _role(turn.get("role")), "content": _text(turn.get("content"))}
    # Parquet gives every message the fields of all others, as nulls
    if turn.get("tool_calls"):
        message["tool_calls"] = [_call(call) for call in _turns(turn["tool_calls"], "tool_calls")]
    return message


def _role(role: Any) -> str:
    if role == "developer":  # OpenAI's later name
        return "system"
    if role == "function":
        return "tool"
    if role not in ("system", "user", "assistant", "tool"):
        raise Unreadable(f"unknown role: {role!r}")
    return role


def _text(content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, list):
        parts = [
            part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None for part in content
        ]
        if not all(isinstance(part, str) for part in parts):
            raise Unreadable("a turn holds something else than text")
        return "\n".join(part for part in parts if part is not None)
    if not isinstance(content, str):
        raise Unreadable(f"the content of a turn is text, this is {_kind(content)}")
    return content


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    """A tool call with its arguments as an object."""
    function = call.get("function", call)
    name, arguments = (function.get(key) if isinstance(function, Mapping) else None for key in ("name", "arguments"))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            raise Unreadable("the arguments of a tool call are no JSON") from None
    if not isinstance(name, str) or not name or not isinstance(arguments, Mapping):
        raise Unreadable("a tool call needs a name and arguments")
    return {"type": "function", "function": {"name": name, "arguments": dict(arguments)}}


def _from_sharegpt(turn: Mapping[str, Any]) -> dict[str, Any]:
    speaker, value = turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))
    if speaker == "function_call":
        try:
            calls = json.loads(_text(value))
        except (ValueError, RecursionError):
            raise Unreadable("a function_call is no JSON") from None
        found = _turns(calls if isinstance(calls, list) else [calls], "function_call")
        return {"role": "assistant", "content": "", "tool_calls": [_call(call) for call in found]}
    if speaker not in FROM_SHAREGPT:
        raise Unreadable(f"unknown role: {speaker!r}")
    return {"role": FROM_SHAREGPT[speaker], "content": _text(value)}


def _to_sharegpt(message: Mapping[str, Any]) -> list[dict[str, str]]:
    turns = []
    if message["content"] or not message.get("tool_calls"):
        turns.append({"from": TO_SHAREGPT[message["role"]], "value": message["content"]})
    if calls := message.get("tool_calls"):
        functions = [call["function"] for call in calls]
        value = json.dumps(functions if len(functions) > 1 else functions[0], ensure_ascii=False)
        turns.append({"from": "function_call", "value": value})
    return turns


def _from_alpaca(row: Mapping[str, Any]) -> Messages:
    if not isinstance(row.get("output"), str):
        raise Unreadable("instruction without an output")
    messages: Messages = []
    for pair in row.get("history") or []:
        if not isinstance(pair, list) or len(pair) != 2:
            raise Unreadable("history is a list of pairs")
        messages += [
            {"role": role, "content": _text(text)} for role, text in zip(("user", "assistant"), pair, strict=True)
        ]
    asked, given = _text(row["instruction"]), _text(row.get("input"))
    question = f"{asked}\n\n{given}" if given.strip() else asked
    return [*messages, {"role": "user", "content": question}, {"role": "assistant", "content": row["output"]}]


def _tools(value: Any) -> list[Any]:
    """A list, or one as JSON text, as ShareGPT has it."""
    if not value:
        return []
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise Unreadable("tools is no JSON") from None
    if not isinstance(value, list) or not all(isinstance(tool, Mapping) for tool in value):
        raise Unreadable("tools is a list of objects")
    return value


def _kind(value: Any) -> str:
    names: dict[type, str] = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


__all__ = ["Form", "Messages", "Unreadable", "parse", "written"]
