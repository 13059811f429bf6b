"""The tokenizer: round trips, the published ids, control tokens that text cannot forge, the chat template."""

import base64
import json
import os
import random
import subprocess
import sys
import unicodedata
import unittest.mock
import zipfile
from itertools import groupby
from pathlib import Path

import pytest
import tiktoken
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from model.byte_level import SPLIT_PATTERN
from model.chat import DEFAULT_SYSTEM, segments
from model.config import ModelFormatError
from model.tokenizer import CONTROL_TOKENS, Tokenizer

text = st.text(st.characters(exclude_categories=("Cs",)), max_size=60)
# ``transformers`` lets text forge control tokens; comparisons with it are about all other text.
honest = text.filter(lambda value: not any(name in value for name in CONTROL_TOKENS))
hostile = st.lists(st.one_of(st.sampled_from(CONTROL_TOKENS), text), max_size=5).map("".join)


@pytest.fixture(scope="session")
def auto(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="session")
def rank_file() -> Path:
    """The published vocabulary, out of the pinned package that carries it."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "qwenforge" / "tests"
    file = cache / "dashscope" / "resources" / "qwen.tiktoken"
    if not file.exists():
        cache.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(cache), "dashscope==2.0.2"]
        subprocess.run(pip, check=True, capture_output=True)
        with zipfile.ZipFile(next(cache.glob("dashscope-2.0.2-*.whl"))) as wheel:
            wheel.extract("dashscope/resources/qwen.tiktoken", cache)
    return file


@given(hostile)
def test_decode_inverts_encode_up_to_normalisation(tokenizer, value):
    assert tokenizer.decode(tokenizer.encode(value)) == unicodedata.normalize("NFC", value)


@given(hostile)
def test_text_never_becomes_a_control_token(tokenizer, value):
    assert not set(tokenizer.encode(value)) & set(tokenizer.control.values())
    conversation = [{"role": "system", "content": value}, {"role": "user", "content": value}]
    ids = tokenizer.render_chat(conversation)
    assert ids.count(tokenizer.im_start_id) == 3
    assert ids.count(tokenizer.im_end_id) == 2


@given(st.binary(max_size=80))
def test_any_bytes_round_trip(tokenizer, data):
    ids = tokenizer.encode_bytes(data)
    assert tokenizer.decode_bytes(ids) == data
    assert tokenizer.decode(ids) == data.decode(errors="replace")


@given(text)
def test_bytes_of_text_are_encoded_like_text(tokenizer, value):
    value = unicodedata.normalize("NFC", value)
    assert tokenizer.encode_bytes(value.encode()) == tokenizer.encode(value)


@given(hostile, st.booleans())
def test_streamed_pieces_hold_whole_characters(tokenizer, value, skip):
    value = unicodedata.normalize("NFC", value)
    stream = tokenizer.stream(skip)
    pieces = list(map(stream.push, tokenizer.encode(value)))
    assert stream.flush() == ""
    assert "".join(pieces) == value


@given(st.lists(st.integers(0, 400), max_size=20), st.booleans())
def test_streamed_text_is_that_of_decode(tokenizer, ids, skip):
    """For any ids: halves of characters, control tokens and ids beyond the vocabulary among them."""
    stream = tokenizer.stream(skip)
    assert "".join([*map(stream.push, ids), stream.flush()]) == tokenizer.decode(ids, skip)


def test_a_character_streams_when_its_last_byte_is_there(tokenizer):
    stream = tokenizer.stream()
    parts = [tokenizer.encode_bytes(bytes([byte]))[0] for byte in "ж€🙂".encode()]
    assert [stream.push(token) for token in parts] == ["", "ж", "", "", "€", "", "", "", "🙂"]


@given(st.lists(text, max_size=4))
def test_batch_equals_one_by_one(tokenizer, values):
    assert tokenizer.encode_batch(values) == [tokenizer.encode(value) for value in values]


@given(st.integers(0, 10**12))
def test_digits_are_single_tokens(tokenizer, number):
    assert len(tokenizer.encode(str(number))) == len(str(number))


def test_control_tokens_take_the_last_ids(tokenizer):
    first = tokenizer.vocab_size - 22
    assert list(tokenizer.control.values()) == list(range(first, tokenizer.vocab_size))
    assert (tokenizer.eos_id, tokenizer.im_start_id, tokenizer.im_end_id) == (first, first + 1, first + 2)


def test_decode_hides_turns_and_shows_tool_calls(tokenizer):
    ids = [tokenizer.im_start_id, *tokenizer.encode("a cat"), tokenizer.control["<tool_call>"], tokenizer.eos_id]
    assert tokenizer.decode(ids) == "a cat<tool_call>"
    assert tokenizer.decode(ids, skip_control=False) == "<|im_start|>a cat<tool_call><|endoftext|>"


def test_training_is_deterministic():
    texts = [f"sample {n} of {n * n} words, naïve café 你好 {'abc' * (n % 7)}" for n in range(300)]
    first, second = (Tokenizer.train(iter(texts), 600)._backend.to_str() for _ in range(2))
    assert first == second


def test_too_small_a_vocabulary_is_refused():
    with pytest.raises(ValueError, match="vocab_size 277 is below 256"):
        Tokenizer.train(["a"], 277)


def test_save_and_load(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "a")
    loaded = Tokenizer.load(tmp_path / "a")
    loaded.save(tmp_path / "b")
    assert loaded.control == tokenizer.control
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@given(honest)
def test_autotokenizer_reads_the_same_ids(tokenizer, auto, value):
    assert auto.encode(value, add_special_tokens=False) == tokenizer.encode(value)


# ---- the published vocabulary ---------------------------------------------------------------------------


@pytest.fixture(scope="session")
def published(rank_file) -> Tokenizer:
    return Tokenizer.from_tiktoken(rank_file)


@pytest.fixture(scope="session")
def peer(rank_file) -> tiktoken.Encoding:
    lines = [line.split() for line in rank_file.read_bytes().splitlines()]
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    return tiktoken.Encoding("peer", pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens={})


def test_published_ids(published):
    assert published.encode("Hello world, 你好") == [9707, 1879, 11, 220, 108386]
    assert published.regular_size == 151643
    assert list(published.control.values()) == list(range(151643, 151665))
    assert published.control["<|endoftext|>"] == 151643
    assert published.control["<|file_sep|>"] == 151664


STRINGS = 100_000
ALPHABETS = [
    st.characters(exclude_categories=("Cs",)),
    st.characters(max_codepoint=0x7E, min_codepoint=0x20),
    st.sampled_from("aeinst 's't'LL'Re0129\r\n\t  .,;-_(){}<|>é́ß你好世界ёжनमस्ते한국🙂👩‍💻\u2028\u00a0\u3000"),
]


def test_ids_equal_tiktoken(published, peer):
    """Strings are drawn in batches: most of the cost of an example is its overhead."""
    batches = st.one_of(
        [st.lists(st.text(alphabet, max_size=24), min_size=100, max_size=100) for alphabet in ALPHABETS]
    )

    @settings(max_examples=STRINGS // 100, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(batches)
    def compare(values):
        nonlocal seen
        seen += len(values)
        values = [unicodedata.normalize("NFC", value) for value in values]
        assert published.encode_batch(values) == peer.encode_ordinary_batch(values, num_threads=1)

    seen = 0
    compare()
    assert seen >= STRINGS


def test_a_megabyte_round_trips_and_equals_tiktoken(published, peer):
    """Prose and code of the standard library in several scripts, and random bytes."""
    sources = [Path(module.__file__).read_text() for module in (json.decoder, unittest.mock, zipfile, subprocess)]
    foreign = "東京都の天気は晴れです。 Größe über Maß. Привет, мир! مرحبا بالعالم नमस्ते दुनिया 안녕 🙂👩‍💻 1234567\n"
    mixed = unicodedata.normalize("NFC", "".join(sources) + foreign * 1500)
    ids = published.encode(mixed)
    assert published.decode(ids) == mixed
    assert ids == peer.encode_ordinary(mixed)
    noise = random.Random(0).randbytes(2**20 - len(mixed.encode()))
    assert len(noise) > 100_000
    assert published.decode_bytes(published.encode_bytes(noise)) == noise
    assert published.decode_bytes(published.encode_bytes(mixed.encode() + noise)) == mixed.encode() + noise


def test_a_broken_rank_file_names_its_line(tmp_path):
    (tmp_path / "ranks").write_bytes(b"IQ== 0\nIg==\n")
    with pytest.raises(ModelFormatError, match="line 2"):
        Tokenizer.from_tiktoken(tmp_path / "ranks")


# ---- conversations --------------------------------------------------------------------------------------

TOOLS = [{"type": "function", "function": {"name": "add", "description": "Ädd <numbers>", "parameters": {}}}]
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": "é"}}}

# An answer that begins with white space would merge with the newline before it when the whole is tokenised at once;
# we cut there, because generation does.
answers = honest.filter(lambda value: value == value.lstrip())
turns = st.one_of(
    st.builds(lambda content: {"role": "user", "content": content}, honest),
    st.builds(lambda content: {"role": "tool", "content": content}, honest),
    st.builds(
        lambda content, calls: {"role": "assistant", "content": content, "tool_calls": calls},
        answers,
        st.lists(st.sampled_from([CALL, CALL["function"], {"name": "x", "arguments": {}}]), max_size=2),
    ),
)
conversations = st.tuples(
    st.one_of(st.just([]), honest.map(lambda content: [{"role": "system", "content": content}])),
    st.lists(turns, min_size=1, max_size=5),
).map(lambda parts: parts[0] + parts[1])


def as_published(messages: list[dict], tools: list[dict] | None, prompt: bool) -> str:
    """The published template's behaviour, turn by turn (model cards of Qwen2.5-Instruct)."""

    def turn(role: str, content: str) -> str:
        return f"<|im_start|>{role}\n{content}<|im_end|>\n"

    system, given_system = DEFAULT_SYSTEM, messages[0]["role"] == "system"
    if given_system:
        system, messages = messages[0]["content"], messages[1:]
    if tools:
        listed = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
        system += (
            "\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with "
            f"function signatures within <tools></tools> XML tags:\n<tools>\n{listed}\n</tools>\n\nFor each function "
            "call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:\n"
            '<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
        )
    written = [turn("system", system)]
    for role, run in groupby(messages, key=lambda message: message["role"]):
        if role == "tool":
            results = [f"<tool_response>\n{message['content']}\n</tool_response>" for message in run]
            written.append(turn("user", "\n".join(results)))
            continue
        for message in run:
            parts = [message["content"]] if message["content"] or not message.get("tool_calls") else []
            for call in message.get("tool_calls", []):
                function = call.get("function", call)
                arguments = json.dumps(function["arguments"], ensure_ascii=False)
                parts.append(f'<tool_call>\n{{"name": "{function["name"]}", "arguments": {arguments}}}\n</tool_call>')
            written.append(turn(role, "\n".join(parts)))
    return "".join(written) + ("<|im_start|>assistant\n" if prompt else "")


@given(conversations, st.booleans(), st.sampled_from([None, [], TOOLS, TOOLS * 2]))
@settings(deadline=None)
def test_conversations_read_as_published(tokenizer, auto, messages, prompt, tools):
    expected = as_published(messages, tools, prompt)
    assert "".join(part.text for part in segments(messages, add_generation_prompt=prompt, tools=tools)) == expected
    assert auto.apply_chat_template(messages, tools=tools, add_generation_prompt=prompt, tokenize=False) == expected


def test_arguments_may_come_as_the_json_text_of_chat_interfaces(tokenizer):
    def rendered(arguments):
        call = {"type": "function", "function": {"name": "add", "arguments": arguments}}
        messages = [{"role": "assistant", "content": "", "tool_calls": [call]}]
        return tokenizer.decode(tokenizer.render_chat(messages, add_generation_prompt=False))

    assert rendered('{"a":1,"b":"\\u00e9"}') == rendered({"a": 1, "b": "é"})
    assert '"arguments": "add 1"}' in rendered("add 1")


@given(conversations, st.booleans(), st.sampled_from([None, TOOLS]))
@settings(deadline=None)
def test_rendered_ids_equal_the_template(tokenizer, auto, messages, prompt, tools):
    expected = auto.apply_chat_template(messages, tools=tools, add_generation_prompt=prompt, return_dict=False)
    assert tokenizer.render_chat(messages, add_generation_prompt=prompt, tools=tools) == expected


def test_a_conversation_reads_as_published(tokenizer):
    messages = [{"role": "user", "content": "Hi"}]
    rendered = tokenizer.decode(tokenizer.render_chat(messages), skip_control=False)
    assert rendered == (
        f"<|im_start|>system\n{DEFAULT_SYSTEM}<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_tool_results_share_a_turn_and_calls_are_tagged(tokenizer):
    messages = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "Q"},
        {"role": "assistant", "content": "Let me see.", "tool_calls": [CALL]},
        {"role": "tool", "content": "1"},
        {"role": "tool", "content": "2"},
    ]
    rendered = tokenizer.decode(tokenizer.render_chat(messages, add_generation_prompt=False), skip_control=False)
    assert rendered.endswith(
        "<|im_start|>assistant\nLet me see.\n<tool_call>\n"
        '{"name": "add", "arguments": {"a": 1, "b": "é"}}\n</tool_call>'
        "<|im_end|>\n<|im_start|>user\n<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n</tool_response><|im_end|>\n"
    )


def test_the_mask_covers_answers_and_their_ends(tokenizer):
    messages = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "a cat"},
        {"role": "user", "content": "two"},
        {"role": "assistant", "content": "a mat", "tool_calls": [CALL]},
    ]
    ids, mask = tokenizer.render_chat_with_mask(messages)
    assert ids == tokenizer.render_chat(messages, add_generation_prompt=False)
    learned = [token for token, kept in zip(ids, mask, strict=True) if kept]
    assert tokenizer.decode(learned, skip_control=False) == (
        'a cat<|im_end|>a mat\n<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": "é"}}\n</tool_call><|im_end|>'
    )


@given(answers)
def test_a_prompt_is_the_start_of_its_masked_conversation(tokenizer, answer):
    question = [{"role": "user", "content": "Q"}]
    prompt = tokenizer.render_chat(question)
    ids, mask = tokenizer.render_chat_with_mask([*question, {"role": "assistant", "content": answer}])
    assert ids[: len(prompt)] == prompt
    assert mask[: len(prompt) + 1] == [False] * len(prompt) + [True]


def test_unknown_roles_and_empty_conversations_are_refused(tokenizer):
    with pytest.raises(ValueError, match="role 'robot'"):
        tokenizer.render_chat([{"role": "user", "content": ""}, {"role": "robot", "content": ""}])
    with pytest.raises(ValueError, match="at least one message"):
        tokenizer.render_chat([])
