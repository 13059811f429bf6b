"""From what a client sent to requests of the engine."""

import secrets
from collections.abc import Sequence
from typing import Any

from components.serving.api.schema import (
    MAX_CHOICES,
    ChatBody,
    CompletionBody,
    EmbeddingBody,
    NamedTool,
    SchemaFormat,
)
from components.serving.api.worker import Refused
from model.chat import CALL_END, CALL_START
from model.config import ModelFormatError
from model.generation.request import Request
from model.tokenizer import Tokenizer

# Keywords whose values are data: what looks like a reference in them is none.
_VALUES = ("const", "enum", "default", "examples")
# Keywords that hold schemas by names, which are no keywords.
_BY_NAME = ("properties", "patternProperties", "dependentSchemas", "$defs", "definitions")


def completion_requests(body: CompletionBody, tokenizer: Tokenizer, max_output: int) -> list[Request]:
    """``n`` requests a prompt, those of one prompt together."""
    prompts = _texts(body.prompt, tokenizer)
    if len(prompts) * (body.n or 1) > MAX_CHOICES:
        raise Refused(f"{len(prompts)} prompts with n {body.n} are more than {MAX_CHOICES} answers")
    # a text that is empty begins a document
    prompts = [prompt or [tokenizer.eos_id] for prompt in prompts]
    limit = _limit(body.max_tokens or 16, max_output)
    return _requests(body, prompts, tokenizer, max_new_tokens=limit, top_log_probs=body.logprobs or 0)


def embedding_requests(body: EmbeddingBody, tokenizer: Tokenizer) -> list[Request]:
    """A request a text."""
    try:
        return [Request(prompt=text, max_new_tokens=1, pooled=True) for text in _texts(body.input, tokenizer)]
    except ValueError as error:
        raise Refused(str(error)) from None


def _texts(given: Any, tokenizer: Tokenizer) -> list[list[int]]:
    """A text, its tokens, or a list of either -> tokens of each."""
    several: list[Any] = given if isinstance(given, list) else [given]
    if isinstance(several[0], int):
        several = [several]
    return [list(each) if isinstance(each, list) else tokenizer.encode(each) for each in several]


def chat_requests(body: ChatBody, tokenizer: Tokenizer, max_output: int) -> list[Request]:
    """``n`` requests for the next turn. Where a call is required, the answer is the JSON inside of its tags."""
    tools = None if body.tool_choice == "none" else body.tools
    messages = [_message(message.model_dump(exclude_none=True)) for message in body.messages]
    try:
        prompt = tokenizer.render_chat(
            messages, tools=[tool.model_dump(exclude_none=True) for tool in tools] if tools else None
        )
    except ModelFormatError as error:
        raise Refused(str(error)) from None
    schema: dict[str, Any] | None = None
    if call_is_required(body):
        mark = tokenizer.control.get(CALL_START)
        prompt += [mark] if mark is not None else tokenizer.encode(CALL_START)
        prompt += tokenizer.encode("\n")
        try:
            schema = _call_schema(body)
        except RecursionError:
            raise Refused("the tools' parameters are nested too deeply") from None
    elif isinstance(body.response_format, SchemaFormat):
        schema = body.response_format.json_schema.schema_
    elif body.response_format is not None and body.response_format.type == "json_object":
        schema = {"type": "object"}
    limit = _limit(body.max_completion_tokens or body.max_tokens or max_output, max_output)
    # one call at most: the end of the first is the end of the answer
    stops = [CALL_END] if tools and body.parallel_tool_calls is False and not call_is_required(body) else []
    return _requests(
        body, [prompt], tokenizer, stops, max_new_tokens=limit, top_log_probs=body.top_logprobs or 0,
        json_schema=schema,
    )  # fmt: skip


def call_is_required(body: ChatBody) -> bool:
    return body.tool_choice == "required" or isinstance(body.tool_choice, NamedTool)


def _message(message: dict[str, Any]) -> dict[str, Any]:
    if isinstance(message.get("content"), list):
        message["content"] = "".join(part["text"] for part in message["content"])
    if message["role"] == "developer":
        message["role"] = "system"
    return message


def _call_schema(body: ChatBody) -> dict[str, Any]:
    """A call of one of the tools, or of the one that is named. Each tool's parameters become a definition, and what
    they refer to by ``#/...`` moves with them: tools may give one name to different things."""
    wanted = body.tool_choice.function.name if isinstance(body.tool_choice, NamedTool) else None
    calls: list[dict[str, Any]] = []
    definitions: dict[str, Any] = {}
    for tool in body.tools or ():
        if wanted in (None, tool.function.name):
            place = f"#/$defs/{tool.function.name}"
            definitions[tool.function.name] = _moved(tool.function.parameters or {"type": "object"}, place)
            calls.append({
                "type": "object",
                "properties": {"name": {"const": tool.function.name}, "arguments": {"$ref": place}},
                "required": ["name", "arguments"], "additionalProperties": False,
            })  # fmt: skip
    return {"$defs": definitions, **({"anyOf": calls} if len(calls) > 1 else calls[0])}


def _moved(schema: Any, place: str) -> Any:
    """A schema whose references to itself hold where it stands at ``place`` of another."""
    if isinstance(schema, list):
        return [_moved(each, place) for each in schema]
    if not isinstance(schema, dict):
        return schema
    moved: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _BY_NAME and isinstance(value, dict):
            moved[key] = {name: _moved(each, place) for name, each in value.items()}
        else:
            moved[key] = value if key in _VALUES else _moved(value, place)
    reference = schema.get("$ref")
    if isinstance(reference, str) and (reference == "#" or reference.startswith("#/")):
        moved["$ref"] = place + reference[1:]
    return moved


def _limit(asked: int, max_output: int) -> int:
    if asked > max_output:
        raise Refused(f"max_tokens {asked:,} is more than the {max_output:,} that this server writes")
    return asked


def _requests(
    body: ChatBody | CompletionBody, prompts: list[list[int]], tokenizer: Tokenizer, stops: Sequence[str] = (),
    **fields: Any,
) -> list[Request]:  # fmt: skip
    stops = [*([body.stop] if isinstance(body.stop, str) else body.stop or ()), *stops]
    seed = secrets.randbits(63) if body.seed is None else body.seed
    try:
        return [
            Request(
                prompt=prompt, sample=sample, seed=seed, stop_strings=stops,
                stop_ids=() if body.ignore_eos else (tokenizer.im_end_id, tokenizer.eos_id),
                temperature=1.0 if body.temperature is None else body.temperature,
                top_p=body.top_p or 1.0, top_k=body.top_k, repetition_penalty=body.repetition_penalty,
                presence_penalty=body.presence_penalty or 0.0, frequency_penalty=body.frequency_penalty or 0.0,
                **fields,
            )
            for prompt in prompts
            for sample in range(body.n or 1)
        ]  # fmt: skip
    except ValueError as error:
        raise Refused(str(error)) from None
