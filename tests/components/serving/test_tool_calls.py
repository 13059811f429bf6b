"""What is asked of the engine where tools are given, and what is read from its answers."""

import json

import pytest

from components.serving.api.prompts import chat_requests
from components.serving.api.replies import Choice
from components.serving.api.schema import ChatBody
from model.generation.grammar import GrammarError, Grammars
from model.generation.request import Event
from model.tokenizer import Tokenizer

CALL = '<tool_call>\n{"name": "pay", "arguments": {"x": %d}}\n</tool_call>'


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(['{"name": "pay", "arguments": {"x": 1}} some words ' * 9], vocab_size=330)


def tool(name: str, **parameters) -> dict:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", **parameters}}}


def body(*tools: dict, **fields) -> ChatBody:
    return ChatBody(model="m", messages=[{"role": "user", "content": "Hello?"}], tools=list(tools), **fields)


def accepts(tokenizer: Tokenizer, asked: ChatBody, name: str, arguments: dict) -> bool:
    [request] = chat_requests(asked, tokenizer, 100)
    grammar = Grammars(tokenizer, tokenizer.vocab_size).start(request)
    text = json.dumps({"name": name, "arguments": arguments})
    try:
        return [grammar.accept(token) for token in tokenizer.encode(text)][-1]
    except GrammarError:
        return False


def test_definitions_of_one_name_in_two_tools_stay_apart(tokenizer):
    def of(name: str, values: list[int]) -> dict:
        return tool(
            name, properties={"x": {"$ref": "#/$defs/value"}}, required=["x"], additionalProperties=False,
            **{"$defs": {"value": {"enum": values}}},
        )  # fmt: skip

    asked = body(of("pay", [1]), of("ask", [2]), tool_choice="required")
    found = {(name, x): accepts(tokenizer, asked, name, {"x": x}) for name in ("pay", "ask") for x in (1, 2)}
    assert found == {("pay", 1): True, ("pay", 2): False, ("ask", 1): False, ("ask", 2): True}


def test_a_schema_may_refer_to_itself_and_data_that_look_like_a_reference_stay(tokenizer):
    looks = {"$ref": "#/nowhere"}
    asked = body(
        tool("pay", properties={"x": {"const": looks}, "default": {"$ref": "#"}}, additionalProperties=False),
        tool("ask"), tool_choice={"type": "function", "function": {"name": "pay"}},
    )  # fmt: skip
    assert accepts(tokenizer, asked, "pay", {"x": looks, "default": {"default": {"x": looks}}})
    assert not accepts(tokenizer, asked, "pay", {"default": {"y": 1}})
    assert not accepts(tokenizer, asked, "ask", {}), "another one is named"


def said(text: str, stop: str | None = None) -> Choice:
    """An answer that comes in pieces of three characters."""
    choice = Choice("auto")
    for begin in range(0, len(text), 3):
        ended = begin + 3 >= len(text)
        event = Event(
            0, 1, 0.0, text=text[begin : begin + 3], finish="stop" if ended else None, stop=stop if ended else None
        )
        choice.push(event)
    return choice


def test_parallel_calls_come_one_by_one():
    choice = said("I pay. " + CALL % 1 + "\n" + CALL % 2)
    assert [json.loads(call["function"]["arguments"]) for call in choice.calls] == [{"x": 1}, {"x": 2}]
    assert [call["index"] for call in choice.calls] == [0, 1] and len({call["id"] for call in choice.calls}) == 2
    assert choice.text.strip() == "I pay." and choice.finish == "tool_calls"


def test_without_parallel_calls_the_first_one_ends_the_answer(tokenizer):
    [request] = chat_requests(body(tool("pay"), parallel_tool_calls=False), tokenizer, 100)
    assert request.stop_strings == ["</tool_call>"]
    choice = said((CALL % 1).removesuffix("</tool_call>"), stop="</tool_call>")
    assert [call["function"]["name"] for call in choice.calls] == ["pay"]
    assert choice.text == "" and choice.finish == "tool_calls"
    [request] = chat_requests(body(tool("pay")), tokenizer, 100)
    assert not request.stop_strings


def test_two_tools_of_one_name_are_refused():
    with pytest.raises(ValueError, match="same name"):
        body(tool("pay"), tool("pay"))
