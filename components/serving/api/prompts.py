"""From what a client sent to requests of the engine."""

import secrets
from typing import Any

from components.serving.api.schema import MAX_CHOICES, ChatBody, CompletionBody, NamedTool, SchemaFormat
from components.serving.api.worker import Refused
from model.chat import CALL_START
from model.config import ModelFormatError
from model.generation.request import Request
from model.tokenizer import Tokenizer


def completion_requests(body: CompletionBody, tokenizer: Tokenizer, max_output: int) -> list[Request]:
    """``n`` requests a prompt, those of one prompt together."""
    given: list[Any] = body.prompt if isinstance(body.prompt, list) else [body.prompt]
    if isinstance(given[0], int):
        given = [given]
    prompts = [list(each) if isinstance(each, list) else tokenizer.encode(each) for each in given]
    if len(prompts) * (body.n or 1) > MAX_CHOICES:
        raise Refused(f"{len(prompts)} prompts with n {body.n} are more than {MAX_CHOICES} answers")
    # a text that is empty begins a document
    prompts = [prompt or [tokenizer.eos_id] for prompt in prompts]
    limit = _limit(body.max_tokens or 16, max_output)
    return _requests(body, prompts, tokenizer, max_new_tokens=limit, top_log_probs=body.logprobs or 0)


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
        schema = _call_schema(body)
    elif isinstance(body.response_format, SchemaFormat):
        schema = body.response_format.json_schema.schema_
    elif body.response_format is not None and body.response_format.type == "json_object":
        schema = {"type": "object"}
    limit = _limit(body.max_completion_tokens or body.max_tokens or max_output, max_output)
    return _requests(
        body, [prompt], tokenizer, max_new_tokens=limit, top_log_probs=body.top_logprobs or 0, json_schema=schema
    )


def call_is_required(body: ChatBody) -> bool:
    return body.tool_choice == "required" or isinstance(body.tool_choice, NamedTool)


def _message(message: dict[str, Any]) -> dict[str, Any]:
    if isinstance(message.get("content"), list):
        message["content"] = "".join(part["text"] for part in message["content"])
    if message["role"] == "developer":
        message["role"] = "system"
    return message


def _call_schema(body: ChatBody) -> dict[str, Any]:
    """A call of one of the tools, or of the one that is named. Definitions move to the root, where ``$ref`` looks."""
    wanted = body.tool_choice.function.name if isinstance(body.tool_choice, NamedTool) else None
    calls: list[dict[str, Any]] = []
    shared: dict[str, Any] = {}
    for tool in body.tools or ():
        if wanted in (None, tool.function.name):
            parameters = dict(tool.function.parameters or {"type": "object"})
            for key in ("$defs", "definitions"):
                definitions = parameters.pop(key, None)
                if isinstance(definitions, dict):
                    shared.setdefault(key, {}).update(definitions)
            calls.append({
                "type": "object",
                "properties": {"name": {"const": tool.function.name}, "arguments": parameters},
                "required": ["name", "arguments"], "additionalProperties": False,
            })  # fmt: skip
    return {**shared, "anyOf": calls} if len(calls) > 1 else {**shared, **calls[0]}


def _limit(asked: int, max_output: int) -> int:
    if asked > max_output:
        raise Refused(f"max_tokens {asked:,} is more than the {max_output:,} that this server writes")
    return asked


def _requests(
    body: ChatBody | CompletionBody, prompts: list[list[int]], tokenizer: Tokenizer, **fields: Any
) -> list[Request]:
    stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
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
