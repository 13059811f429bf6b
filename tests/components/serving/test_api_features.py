"""More of what the official client may ask of a server process: embeddings, choices of tools, long answers."""

import base64
import json

import httpx
import numpy as np
import openai
import pytest
import torch
from served import make_checkpoint, serving
from transformers import AutoModel
from waiting import wait_for

from model.tokenizer import Tokenizer

HELLO = [{"role": "user", "content": "Hello?"}]
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "additionalProperties": False}}}
    for name in ("first", "second")
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("served") / "tiny", max_position_embeddings=16384)


@pytest.fixture(scope="module")
def served(checkpoint, tmp_path_factory):
    with serving(str(checkpoint), tmp_path_factory.mktemp("home")) as server:
        yield server


def test_embeddings_are_the_normalised_means_that_transformers_computes(served, checkpoint):
    texts = ["a few words", "as well", "一些文字 " * 40]
    tokenizer = Tokenizer.load(checkpoint)
    peer = AutoModel.from_pretrained(checkpoint, dtype=torch.float32).eval()
    reply = served.client.embeddings.create(model="tiny", input=texts)  # the client asks for base64 by itself
    assert [each.index for each in reply.data] == [0, 1, 2]
    tokens = [tokenizer.encode(text) for text in texts]
    for each, ids in zip(reply.data, tokens, strict=True):
        with torch.no_grad():
            mean = peer(torch.tensor([ids])).last_hidden_state[0].mean(dim=0)
        torch.testing.assert_close(torch.tensor(each.embedding), mean / mean.norm(), rtol=1e-4, atol=1e-5)
    assert reply.usage.prompt_tokens == reply.usage.total_tokens == sum(map(len, tokens))


def test_embeddings_are_the_same_as_numbers_as_base64_and_of_tokens(served, checkpoint):
    text = "a few words"
    fields = {"model": "tiny", "input": text}
    numbers = httpx.post(f"{served.url}/v1/embeddings", json=fields).json()["data"][0]["embedding"]
    packed = httpx.post(f"{served.url}/v1/embeddings", json=fields | {"encoding_format": "base64"}).json()
    unpacked = np.frombuffer(base64.b64decode(packed["data"][0]["embedding"]), "<f4")
    np.testing.assert_array_equal(unpacked, np.float32(numbers))
    assert np.linalg.norm(unpacked) == pytest.approx(1.0, abs=1e-6)
    of_tokens = served.client.embeddings.create(
        model="tiny", input=Tokenizer.load(checkpoint).encode(text), encoding_format="float"
    )
    np.testing.assert_allclose(of_tokens.data[0].embedding, numbers, atol=1e-6)


def test_a_hundred_embeddings_keep_their_order(served):
    texts = [f"{index} words" for index in range(100)]
    reply = served.client.embeddings.create(model="tiny", input=texts)
    assert [each.index for each in reply.data] == list(range(100))
    alone = served.client.embeddings.create(model="tiny", input=texts[77])
    np.testing.assert_allclose(reply.data[77].embedding, alone.data[0].embedding, atol=1e-6)
    wait_for(lambda: served.metric("qwenforge_cache_pages_used") == 0)


@pytest.mark.parametrize("wrong", ["", [], ["a", ""], "word " * 9000, [10**6], [[]]])
def test_what_cannot_be_embedded_is_refused(served, wrong):
    reply = httpx.post(f"{served.url}/v1/embeddings", json={"model": "tiny", "input": wrong})
    assert reply.status_code == 400 and reply.json()["error"]["message"]


def test_an_answer_may_have_8192_tokens_and_no_more(served):
    fields = {"model": "tiny", "prompt": "a few", "temperature": 0, "extra_body": {"ignore_eos": True}}
    answer = served.client.completions.create(**fields, max_tokens=8192)
    assert answer.choices[0].finish_reason == "length" and answer.usage.completion_tokens == 8192
    with pytest.raises(openai.BadRequestError, match="8,192"):
        served.client.completions.create(**fields, max_tokens=8193)


def test_top_log_probs_of_a_chat_answer(served):
    choice = served.client.chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=5, temperature=0, logprobs=True, top_logprobs=3,
        extra_body={"ignore_eos": True},
    ).choices[0]  # fmt: skip
    assert len(choice.logprobs.content) == 5
    for place in choice.logprobs.content:
        told = [each.logprob for each in place.top_logprobs]
        assert len(told) == 3 and told == sorted(told, reverse=True)
        assert place.top_logprobs[0].token == place.token and told[0] == pytest.approx(place.logprob)
        assert bytes(place.bytes).decode("utf-8", "replace") == place.token


def test_choices_under_a_seed_differ_and_come_again(served):
    fields = {"model": "tiny", "messages": HELLO, "n": 3, "max_tokens": 12, "extra_body": {"ignore_eos": True}}

    def texts(seed: int) -> list[str]:
        return [c.message.content for c in served.client.chat.completions.create(**fields, seed=seed).choices]

    assert texts(5) == texts(5) != texts(6)
    assert len(set(texts(5))) == 3


@pytest.mark.parametrize(
    ("choice", "names"),
    [("required", {"first", "second"}), ({"type": "function", "function": {"name": "second"}}, {"second"})],
)
def test_a_choice_of_tools_binds(served, choice, names):
    called = set()
    for seed in range(6):
        answer = served.client.chat.completions.create(
            model="tiny", messages=HELLO, tools=TOOLS, tool_choice=choice, seed=seed, max_tokens=200
        ).choices[0]
        called |= {call.function.name for call in answer.message.tool_calls}
        assert answer.finish_reason == "tool_calls"
    assert called == names


@pytest.mark.parametrize("choice", ["auto", "none"])
@pytest.mark.parametrize("parallel", [True, False])
def test_with_a_free_choice_there_is_text(served, choice, parallel):
    """Random weights call nothing; the prompt tells of tools where one may be called."""
    fields = {"model": "tiny", "messages": HELLO, "max_tokens": 4, "seed": 1, "extra_body": {"ignore_eos": True}}
    plain = served.client.chat.completions.create(**fields)
    answer = served.client.chat.completions.create(
        **fields, tools=TOOLS, tool_choice=choice, parallel_tool_calls=parallel
    )
    assert answer.choices[0].message.content and not answer.choices[0].message.tool_calls
    more = answer.usage.prompt_tokens - plain.usage.prompt_tokens
    assert more == 0 if choice == "none" else more > 50


def test_a_strict_schema_streams_as_json_of_it(served):
    schema = {
        "type": "object", "properties": {"kind": {"enum": ["a", "b"]}, "parts": {"$ref": "#/$defs/parts"}},
        "required": ["kind", "parts"], "additionalProperties": False,
        "$defs": {"parts": {"type": "array", "items": {"enum": [1, 2]}, "minItems": 2, "maxItems": 2}},
    }  # fmt: skip
    stream = served.client.chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=400, seed=2, stream=True,
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}},
    )  # fmt: skip
    value = json.loads("".join(chunk.choices[0].delta.content or "" for chunk in stream))
    assert value["kind"] in ("a", "b") and len(value["parts"]) == 2 and set(value["parts"]) <= {1, 2}
