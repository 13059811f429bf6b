"""Streamed text: whole characters, and nothing of a stop string."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.generation.text import TextStream
from model.tokenizer import Tokenizer

TOKENIZER = Tokenizer.train(["The cat sat on the mat. ", "你好，世界 日本語 ", "🙂🙃 "] * 3, 330)


def pieces(tokens: list[int], stops: tuple[str, ...] = ()) -> tuple[list[str], str | None]:
    stream = TextStream(TOKENIZER, stops)
    said = [stream.push(token) for token in tokens]
    return [*said, stream.flush()], stream.stopped


@given(st.lists(st.integers(0, TOKENIZER.vocab_size - 1), max_size=30))
def test_pieces_join_to_the_decoded_tokens(tokens):
    said, stopped = pieces(tokens)
    assert "".join(said) == TOKENIZER.decode(tokens)
    assert stopped is None


@pytest.mark.parametrize("text", ["世界🙂", "aé"])
def test_no_half_characters(text):
    tokens = TOKENIZER.encode_bytes(text.encode())
    single = [token for byte in text.encode() for token in TOKENIZER.encode_bytes(bytes([byte]))]
    assert len(single) > len(text)
    for way in (tokens, single):
        said, _ = pieces(way)
        assert "".join(said) == text
        assert "\ufffd" not in "".join(said)


@given(
    st.lists(st.sampled_from("ab<|> \n"), max_size=30).map("".join),
    st.lists(st.text("ab<|> \n", min_size=1, max_size=4), max_size=3).map(tuple),
)
def test_text_ends_before_the_first_stop_string(text, stops):
    said, stopped = pieces(TOKENIZER.encode_bytes(text.encode()), stops)
    places = [text.index(stop) for stop in stops if stop in text]
    assert "".join(said) == (text[: min(places)] if places else text)
    assert (stopped is not None) == bool(places)
    assert stopped is None or text.startswith(stopped, min(places))


def test_a_stop_string_that_spans_tokens_is_held_back_until_it_is_certain():
    stream = TextStream(TOKENIZER, ["sat on"])
    letters = [token for letter in "a sat up sat on" for token in TOKENIZER.encode_bytes(letter.encode())]
    said = [stream.push(token) for token in letters]
    assert said[:8] == ["a", " ", "", "", "", "", "sat u", "p"]
    assert "".join(said) == "a sat up "
    assert stream.stopped == "sat on"
    assert stream.flush() == ""
