"""The HTTP API as a client sees it: the official client against a server process."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
from served import ROOT, make_checkpoint, serving
from waiting import wait_for

from benchmarks.fuzz import MODES, PATHS, fuzz
from infra.catalog import Catalog
from model.checkpoint import load_model
from model.config import MoEConfig
from model.generation import Engine, generate
from model.tokenizer import Tokenizer

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {"$ref": "#/$defs/days"}},
            "required": ["city", "days"], "additionalProperties": False, "$defs": {"days": {"enum": [1, 2]}},
        },
    },
}  # fmt: skip
HELLO = [{"role": "user", "content": "Hello?"}]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("served") / "tiny")


@pytest.fixture(scope="module")
def served(checkpoint, tmp_path_factory):
    with serving(str(checkpoint), tmp_path_factory.mktemp("home"), key="one,two") as server:
        server.client.api_key = "two"
        yield server


def test_models_are_listed(served):
    [model] = served.client.models.list().data
    assert model.id == "tiny" and served.client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError):
        served.client.models.retrieve("other")


def test_a_completion_is_the_engines_own_answer(served, checkpoint):
    tokenizer = Tokenizer.load(checkpoint)
    [expected] = generate(
        Engine(load_model(checkpoint).eval(), tokenizer), [tokenizer.encode("a few")], max_new_tokens=20,
        stop_ids=(tokenizer.im_end_id, tokenizer.eos_id),
    )  # fmt: skip
    answer = served.client.completions.create(
        model="tiny", prompt="a few", max_tokens=20, temperature=0, logprobs=2
    )  # fmt: skip
    assert answer.choices[0].text == expected.text
    assert answer.usage.completion_tokens == len(expected.tokens)
    assert answer.usage.prompt_tokens == len(tokenizer.encode("a few"))
    told = answer.choices[0].logprobs
    assert told.token_logprobs == pytest.approx(expected.log_probs[: len(told.tokens)], abs=1e-5)
    assert max(told.top_logprobs[0].values()) == pytest.approx(told.token_logprobs[0]), "greedy takes the likeliest"


@pytest.mark.parametrize("n", [1, 3])
def test_a_stream_joins_to_the_whole_chat_answer(served, n):
    fields = {"model": "tiny", "messages": HELLO, "max_tokens": 24, "seed": 7, "n": n, "logprobs": True}
    whole = served.client.chat.completions.create(**fields)
    texts, tokens, finishes = [""] * n, [[] for _ in range(n)], [None] * n
    usage = None
    for chunk in served.client.chat.completions.create(**fields, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            tokens[choice.index] += [each.token for each in choice.logprobs.content] if choice.logprobs else []
            finishes[choice.index] = choice.finish_reason or finishes[choice.index]
    assert texts == [choice.message.content for choice in whole.choices]
    assert tokens == [[each.token for each in choice.logprobs.content] for choice in whole.choices]
    assert finishes == [choice.finish_reason for choice in whole.choices]
    assert usage == whole.usage
    assert len(set(texts)) == n, "samples differ"


def test_stop_ends_the_text_before_it(served):
    fields = {
        "model": "tiny",
        "prompt": "a few",
        "max_tokens": 40,
        "temperature": 0,
        "extra_body": {"ignore_eos": True},
    }
    text = served.client.completions.create(**fields).choices[0].text
    stop = text[5:8]
    choice = served.client.completions.create(**fields, stop=[stop]).choices[0]
    assert choice.text == text[: text.index(stop)] and choice.finish_reason == "stop"


def test_json_mode_and_schema(served):
    schema = {
        "type": "object", "properties": {"colour": {"enum": ["red", "blue"]}, "size": {"enum": [1, 2]}},
        "required": ["colour", "size"], "additionalProperties": False,
    }  # fmt: skip
    for seed in range(3):
        answer = served.client.chat.completions.create(
            model="tiny", messages=HELLO, seed=seed, max_tokens=300,
            response_format={"type": "json_schema", "json_schema": {"name": "thing", "schema": schema}},
        )  # fmt: skip
        value = json.loads(answer.choices[0].message.content)
        assert value["colour"] in ("red", "blue") and value["size"] in (1, 2) and len(value) == 2
    answer = served.client.chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=8, response_format={"type": "json_object"}
    )
    assert answer.choices[0].message.content.lstrip().startswith("{")


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
@pytest.mark.parametrize("stream", [False, True])
def test_a_required_call_has_arguments_of_the_schema(served, choice, stream):
    fields = {"model": "tiny", "messages": HELLO, "tools": [WEATHER], "tool_choice": choice, "max_tokens": 300}
    if stream:
        with served.client.chat.completions.stream(**fields) as events:
            answer = events.get_final_completion().choices[0]
    else:
        answer = served.client.chat.completions.create(**fields).choices[0]
    [call] = answer.message.tool_calls
    assert call.function.name == "weather" and answer.finish_reason == "tool_calls"
    arguments = json.loads(call.function.arguments)
    assert arguments["city"] in ("Rome", "Oslo") and arguments["days"] in (1, 2)
    messages = [
        *HELLO,
        answer.message.model_dump(exclude_none=True, include={"role": ..., "content": ..., "tool_calls": ...})
        if not stream
        else {
            "role": "assistant",
            "tool_calls": [
                json.loads(
                    call.model_dump_json(
                        include={"id", "type", "function"},
                        exclude={"function": {"parsed_arguments"}},
                        exclude_none=True,
                    )
                )
                | {"function": {"name": call.function.name, "arguments": call.function.arguments}}
            ],
        },
        {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
    ]
    again = served.client.chat.completions.create(model="tiny", messages=messages, tools=[WEATHER], max_tokens=4)
    assert again.usage.completion_tokens >= 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"messages": []}, "messages"), ({"max_tokens": 10**6}, "max_tokens"), ({"logit_bias": {"1": 2}}, "logit_bias"),
        ({"messages": [{"role": "user", "content": "word " * 9000}]}, "context"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": 7}}}}, "schema"),
        ({"tool_choice": "required"}, "tools"), ({"n": 65}, "n"), ({"stream_options": {}}, "stream"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_refused_with_the_reason(served, change, says):
    fields = {"model": "tiny", "messages": HELLO, "max_tokens": 4} | change
    reply = httpx.post(f"{served.url}/v1/chat/completions", json=fields, headers={"Authorization": "Bearer one"})
    assert reply.status_code == 400 and says in reply.json()["error"]["message"]


@pytest.mark.parametrize("key", ["three", "ön"])
def test_a_key_is_needed(served, key):
    headers = {"Authorization": f"Bearer {key}".encode()}
    assert httpx.get(f"{served.url}/v1/models", headers=headers).status_code == 401
    assert httpx.get(f"{served.url}/v1/models").status_code == 401


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[" * 100_000, b'{"model": "tiny", "prompt": "\\ud800"}', b"\xff\xfe", b"9" * 5000,
        b'{"model": "tiny", "prompt": "a", "temperature": NaN}', b'{"model": "tiny", "prompt": [99999999]}',
        b'{"model": "tiny", "messages": [{"role": "user", "content": "a"}], "tools": [{"type": "function",'
        b' "function": {"name": "f", "parameters": {"\\ud800": 1}}}]}',
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["completions", "chat/completions"])
def test_broken_bodies_are_the_clients_mistake(served, body, path):
    headers = {"Authorization": "Bearer one", "Content-Type": "application/json"}
    assert httpx.post(f"{served.url}/v1/{path}", content=body, headers=headers).status_code == 400


def test_a_body_beyond_the_limit_is_413(served):
    reply = httpx.post(
        f"{served.url}/v1/completions", content=b" " * (9 * 2**20), headers={"Authorization": "Bearer one"}
    )
    assert reply.status_code == 413


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("mode", MODES)
def test_nothing_that_the_schema_can_produce_gives_a_500(served, path, mode):
    statuses = fuzz(served.url, path, mode, 100, "tiny", headers={"Authorization": "Bearer one"})
    assert max(statuses) < 500, statuses
    assert statuses.total() >= 90
    assert httpx.get(f"{served.url}/health").status_code == 200


def test_64_streams_at_once_lose_none(served):
    def ask(seed: int, stream: bool) -> str:
        fields = {"model": "tiny", "prompt": f"text {seed}", "max_tokens": 32, "seed": seed}
        if not stream:
            return served.client.completions.create(**fields).choices[0].text
        return "".join(c.choices[0].text for c in served.client.completions.create(**fields, stream=True))

    with ThreadPoolExecutor(64) as pool:
        texts = list(pool.map(lambda seed: ask(seed, True), range(64)))
    assert texts[::8] == [ask(seed, False) for seed in range(0, 64, 8)], "the same texts as alone"
    assert all(texts)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_cache(served, stream):
    wait_for(lambda: served.metric("qwenforge_cache_pages_used") == 0)
    before = served.metric("qwenforge_cancelled_answers_total")
    fields = {
        "model": "tiny", "prompt": "a few", "max_tokens": 4000, "stream": stream, "n": 8, "ignore_eos": True,
    }  # fmt: skip
    with httpx.Client(headers={"Authorization": "Bearer one"}) as client:
        if stream:
            with client.stream("POST", f"{served.url}/v1/completions", json=fields) as reply:
                lines = reply.iter_lines()  # held: without it the connection would be closed at once
                next(lines)
                wait_for(lambda: served.metric("qwenforge_cache_pages_used") >= 8)
        else:
            with pytest.raises(httpx.ReadTimeout):
                client.post(f"{served.url}/v1/completions", json=fields, timeout=2.0)
    wait_for(lambda: served.metric("qwenforge_cache_pages_used") == 0, 20)
    assert served.metric("qwenforge_cancelled_answers_total") == before + 8
    assert served.metric("qwenforge_running_answers") == 0


def test_a_full_queue_says_when_to_come_back(checkpoint, tmp_path):
    with serving(str(checkpoint), tmp_path, "--max-running", "1", "--max-queue", "1") as served:
        fields = {"model": "tiny", "prompt": "a", "max_tokens": 4000, "extra_body": {"ignore_eos": True}}
        streams = [served.client.completions.create(**fields, stream=True) for _ in range(2)]
        with pytest.raises(openai.RateLimitError) as refused:
            served.client.completions.create(**fields)
        assert 1 <= int(refused.value.response.headers["retry-after"]) <= 60
        assert served.metric("qwenforge_rejected_total") == 1
        for stream in streams:
            stream.close()
        wait_for(lambda: served.metric("qwenforge_waiting_answers") + served.metric("qwenforge_running_answers") == 0)
        assert served.client.completions.create(model="tiny", prompt="a", max_tokens=2).choices


def test_sigterm_lets_answers_end(checkpoint, tmp_path):
    with serving(str(checkpoint), tmp_path) as served:
        stream = served.client.completions.create(
            model="tiny", prompt="a", max_tokens=600, stream=True, logprobs=0, extra_body={"ignore_eos": True}
        )
        first = next(stream)
        served.process.send_signal(signal.SIGTERM)
        rest = list(stream)
        assert 1 + len(rest) == 600 and rest[-1].choices[0].finish_reason == "length" and first.choices
        assert served.process.wait(30) == 0


def test_an_alias_that_moves_is_followed_and_running_answers_end(checkpoint, tmp_path):
    """From a dense checkpoint to one with experts."""
    experts = MoEConfig(
        num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, shared_expert_intermediate_size=32
    )  # fmt: skip
    other, home = make_checkpoint(tmp_path / "experts", seed=4, moe=experts), tmp_path / "home"
    for alias, folder in (("other", other), ("served", checkpoint)):
        subprocess.run(
            [sys.executable, "-m", "flows.cli", "import", str(folder), "--alias", alias], check=True,
            cwd=ROOT, env=os.environ | {"QWENFORGE_HOME": str(home), "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    fields = {"model": "served", "prompt": "a few", "temperature": 0}
    with serving("served", home, "--watch-seconds", "0.2") as served:
        digest = httpx.get(f"{served.url}/health").json()["digest"]
        whole = served.client.completions.create(**fields, max_tokens=40, extra_body={"ignore_eos": True})
        stream = served.client.completions.create(
            **fields, max_tokens=4000, stream=True, extra_body={"ignore_eos": True}
        )
        said = next(stream).choices[0].text
        catalog = Catalog(f"sqlite:///{home / 'catalog.db'}")
        catalog.set_alias("served", catalog.resolve_alias("other"))
        wait_for(lambda: httpx.get(f"{served.url}/health").json()["digest"] != digest)
        assert served.metric("qwenforge_model_swaps_total", '{outcome="done"}') == 1
        pieces = [piece.choices[0] for piece in stream]
        said += "".join(piece.text for piece in pieces)
        assert pieces[-1].finish_reason == "length"
        assert said.startswith(whole.choices[0].text), "the answer went on with the weights that it began with"
        tokenizer = Tokenizer.load(other)
        [expected] = generate(
            Engine(load_model(other).eval(), tokenizer), [tokenizer.encode("a few")], max_new_tokens=20,
            stop_ids=(tokenizer.im_end_id, tokenizer.eos_id),
        )  # fmt: skip
        assert served.client.completions.create(**fields, max_tokens=20).choices[0].text == expected.text
