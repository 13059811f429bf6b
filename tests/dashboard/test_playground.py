"""The playground against real servers: what it shows is what the API says."""

import html
import math
import re

import pytest
import streamlit as st
from served import make_checkpoint, serving
from streamlit.testing.v1 import AppTest

from dashboard.chat_api import Token
from dashboard.views.playground import characters, spans

QUESTION = "a few <b>words</b>?"
ASKED = {"max_tokens": 12, "temperature": 0.7, "top_p": 0.95, "seed": 3}
SYSTEM = {"role": "system", "content": "You are a helpful assistant."}


def page() -> None:
    from dashboard.views import playground

    playground.show(None)


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    """Two checkpoints, the second one behind a key."""
    folder = tmp_path_factory.mktemp("served")
    first, second = (str(make_checkpoint(folder / name, seed)) for seed, name in enumerate(("one", "two")))
    with serving(first, folder / "a") as open_one, serving(second, folder / "b", key="one,two") as closed_one:
        closed_one.client.api_key = "two"
        yield open_one, closed_one


@pytest.fixture
def opened(tmp_path, monkeypatch):
    def open_page(*urls: str, keys: str = "") -> AppTest:
        monkeypatch.setenv("QWENFORGE_HOME", str(tmp_path))
        monkeypatch.setenv("QWENFORGE_API_URLS", ",".join(urls))
        monkeypatch.setenv("QWENFORGE_API_KEYS", keys)
        st.cache_resource.clear()
        return AppTest.from_function(page, default_timeout=120).run()

    yield open_page
    st.cache_resource.clear()


def test_without_a_server_it_says_how_to_start_one(opened):
    shown = opened("http://127.0.0.1:9")
    assert not shown.exception and not shown.chat_input
    assert "http://127.0.0.1:9 does not answer" in shown.info[0].value
    assert shown.code[0].value == "qwenforge serve rl"


def test_a_server_that_wants_a_key_is_named_as_such(opened, servers):
    assert "asks for a key" in opened(servers[1].url).info[0].value


def test_two_checkpoints_answer_side_by_side_and_remember(opened, servers):
    shown = opened(servers[0].url, f"{servers[1].url}/v1", keys="two,one")  # with or without what clients append
    shown.number_input[1].set_value(ASKED["max_tokens"])
    shown.number_input[2].set_value(ASKED["seed"])
    shown.chat_input[0].set_value(QUESTION).run()
    assert not shown.exception and not shown.error
    said = {}
    for place, served in enumerate(servers):
        said[place], tokens = answer(served, SYSTEM, {"role": "user", "content": QUESTION})
        assert text_of(shown.html[place].body) == tokens, "control tokens show as well"
        assert shown.html[place].body.count("<span") > 3 and "<b>" not in shown.html[place].body
    assert said[0] != said[1]
    assert sum("tokens" in caption.value and "perplexity" in caption.value for caption in shown.caption) == 2

    shown.chat_input[0].set_value("And then?").run()
    turns = [SYSTEM, {"role": "user", "content": QUESTION}, {"role": "assistant", "content": said[1]}]
    assert text_of(shown.html[3].body) == answer(servers[1], *turns, {"role": "user", "content": "And then?"})[1]

    shown.toggle[0].set_value(False).run()
    assert "<span" not in shown.html[0].body and text_of(shown.html[0].body) == said[0]
    shown.button[0].click().run()
    assert not shown.html


def test_tools_that_are_no_json_are_the_readers_mistake(opened, servers):
    shown = opened(servers[0].url)
    shown.text_area[1].set_value("[{").run()
    assert "no JSON" in shown.error[0].value and not shown.exception
    shown.text_area[1].set_value('[{"type": "nonsense"}]').run()
    shown.chat_input[0].set_value("Hello?").run()
    assert "tools" in shown.error[0].value, "what the API says about them"


def test_a_character_of_several_tokens_shows_once_with_their_joint_probability():
    data = "é一".encode()
    tokens = [Token(data[place : place + 1], math.log(0.5), [(str(place), -1.0)]) for place in range(len(data))]
    found = list(characters([*tokens, Token(b"\xff", -1.0, []), Token(b"a", 0.0, [])]))
    assert [text for text, _, _ in found] == ["é", "一", "\ufffd", "a"]
    assert [round(math.exp(log_prob), 4) for _, log_prob, _ in found[:2]] == [0.25, 0.125]
    assert found[1][2] == [("2", -1.0)], "the alternatives to its first token"


def test_colours_go_from_red_to_green():
    hues = re.findall(r"hsla\((\d+)", spans([Token(b"a", math.log(p), []) for p in (0.01, 0.5, 1.0)]))
    assert hues == ["1", "60", "120"]


def text_of(body: str) -> str:
    return html.unescape(re.sub(r"<[^>]*>", "", body))


def answer(served, *messages: dict) -> tuple[str, str]:
    """The text of an answer, and that of its tokens."""
    fields = {"model": served.name, "messages": list(messages), "logprobs": True} | ASKED
    [choice] = served.client.chat.completions.create(**fields).choices
    return choice.message.content, b"".join(bytes(each.bytes) for each in choice.logprobs.content).decode(
        errors="replace"
    )
