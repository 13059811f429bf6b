"""The quick ways to the words of a text find what the two regular expressions of the definition find."""

import random
import re
import sys
import unicodedata

import pytest

from components.data.words import comparable_words

CHARACTERS = r"\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3"
WORD = re.compile(rf"[{CHARACTERS}]|[^\W_{CHARACTERS}]+")


def by_definition(text: str) -> list[str]:
    return WORD.findall(unicodedata.normalize("NFKC", text).casefold())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The U.S.\n是的", ["the", "u", "s", "是", "的"]),
        ("snake_case, it's 3.5€", ["snake", "case", "it", "s", "3", "5"]),
        ("Straße ﬁne ™ … naïve", ["strasse", "fine", "tm", "naïve"]),
        ("e\u0301té and été", ["été", "and", "été"]),
        ("⼀ and 一", ["一", "and", "一"]),
        ("😀 ok\ud800 ok", ["ok", "ok"]),
        ("", []),
        (" … ", []),
    ],
)
def test_words_are_folded_and_split(text: str, words: list[str]) -> None:
    assert comparable_words(text) == words == by_definition(text)


def test_every_character_between_others_gives_the_same_words() -> None:
    """A line of its own for every one: what joins its neighbours would join another's."""
    every = [chr(code) for code in range(sys.maxunicode + 1)]
    for start in range(0x3000):
        text = f"a{every[start]}b {every[start]}e{every[start]}{every[start]} o{every[start]}"
        assert comparable_words(text) == by_definition(text), hex(start)
    for start in range(0x3000, len(every), 4096):
        text = "".join(f"a{character}b {character} " for character in every[start : start + 4096])
        assert comparable_words(text) == by_definition(text), hex(start)


def test_random_neighbours_give_the_same_words() -> None:
    """Marks, jamo and letters that compose, in any order."""
    rng = random.Random(0)
    blocks = [
        range(0x20, 0x180),
        range(0x300, 0x600),
        range(0x900, 0xE00),
        range(0x1000, 0x1200),
        range(0x1E00, 0x2200),
    ]
    for _ in range(20_000):
        block = rng.choice(blocks)
        text = "".join(chr(rng.choice(rng.choice([block, blocks[0]]))) for _ in range(12)) + "’"
        assert comparable_words(text) == by_definition(text), ascii(text)
    plain = [chr(code) for code in range(0x80, 0x2E80) if comparable_words(chr(code)) != [] or rng.random() < 0.3]
    for _ in range(20_000):
        text = "".join(rng.choices(plain, k=8))
        assert comparable_words(text) == by_definition(text), ascii(text)
