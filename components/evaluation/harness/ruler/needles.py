"""Needles in a haystack: magic numbers or ids of named things, hidden in noise, in prose or among other needles."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from random import Random
from typing import Literal
from uuid import UUID

from components.evaluation.harness.ruler.example import Example

Thing = Literal["words", "numbers", "uuids"]

NEEDLE = "One of the special magic {kind} for {key} is: {value}."
NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
DEPTHS = tuple(round(100 * step / 39) for step in range(40))
"""Percent of a text at which needles are put."""
ORDER = 42
"""Seed of the needles' order, as the owners fix it."""


@dataclass(frozen=True)
class NeedleTask:
    """A setting of RULER's table 1: ``keys`` things with ``values`` each are hidden, ``queries`` of them asked for."""

    haystack: Literal["repeat", "essay", "needle"]
    key: Thing = "words"
    value: Thing = "numbers"
    keys: int = 1
    values: int = 1
    queries: int = 1

    @property
    def needles(self) -> int:
        return max(self.keys, self.queries) * self.values


SETTINGS = {
    "niah_single_1": NeedleTask("repeat"),
    "niah_single_2": NeedleTask("essay"),
    "niah_single_3": NeedleTask("essay", value="uuids"),
    "niah_multikey_1": NeedleTask("essay", keys=4),
    "niah_multikey_2": NeedleTask("needle"),
    "niah_multikey_3": NeedleTask("needle", key="uuids", value="uuids"),
    "niah_multivalue": NeedleTask("essay", values=4),
    "niah_multiquery": NeedleTask("essay", queries=4),
}


def hide(task: NeedleTask, size: int, rng: Random, prose: Sequence[str] = ()) -> Example:
    """An example with ``size`` sentences of noise, other needles, or (essay) words of ``prose``."""
    keys, values, needles = [], [], []
    for _ in range(max(task.keys, task.queries)):
        keys.append(draw(task.key, rng))
        values.append([draw(task.value, rng) for _ in range(task.values)])
        needles += [NEEDLE.format(kind=task.value, key=keys[-1], value=value) for value in values[-1]]
    Random(ORDER).shuffle(needles)
    if task.haystack == "essay":
        context = in_prose(needles, " ".join(prose[:size]), rng)
    else:
        context = in_sentences(task, needles, size, rng)
    asked = rng.sample(range(len(keys)), task.queries)
    names = [keys[index] for index in asked]
    query = ", ".join(names[:-1]) + ", and " + names[-1] if len(names) > 1 else names[0]
    one = task.queries * task.values == 1
    kind, some, verb, are = (
        (task.value[:-1], "A", "is", "is") if one else (task.value, "Some", "are all", "are")
    )  # fmt: skip
    text = (
        f"{some} special magic {kind} {are} hidden within the following text. Make sure to memorize it. I will quiz "
        f"you about the {kind} afterwards.\n{context}\nWhat {verb} the special magic {kind} for {query} mentioned in "
        "the provided text?"
    )
    prefix = f"The special magic {kind} for {query} mentioned in the provided text {are}"
    return Example(text, prefix, tuple(value for index in asked for value in values[index]))


def in_sentences(task: NeedleTask, needles: Sequence[str], size: int, rng: Random) -> str:
    """``size`` lines of noise or of needles that are not asked for, with the needles between them."""
    if task.haystack == "repeat":
        lines = [NOISE] * size
    else:
        lines = [
            NEEDLE.format(kind=task.value, key=draw(task.key, rng), value=draw(task.value, rng)) for _ in range(size)
        ]
    for place, needle in zip(sorted(rng.sample(range(size), len(needles)), reverse=True), needles, strict=True):
        lines.insert(place, needle)
    return "\n".join(lines)


def in_prose(needles: Sequence[str], text: str, rng: Random) -> str:
    """Needles between the sentences of ``text``, at depths of their own."""
    parts = split_sentences(text.strip())
    cuts = [0, *sorted(len(parts) * depth // 100 for depth in rng.sample(DEPTHS, len(needles))), len(parts)]
    pieces = []
    for number, (begin, end) in enumerate(pairwise(cuts)):
        pieces.append(" ".join(parts[begin:end]))
        pieces += needles[number : number + 1]
    return " ".join(pieces)


def split_sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.!?])\s+", text)


def draw(thing: Thing, rng: Random) -> str:
    """A name, a number of seven digits, or an id."""
    if thing == "numbers":
        return str(rng.randint(1_000_000, 9_999_999))
    if thing == "uuids":
        return str(UUID(int=rng.getrandbits(128), version=4))
    adjectives, nouns = word_lists("adjectives", "nouns")
    return f"{rng.choice(adjectives)}-{rng.choice(nouns)}"


@cache
def word_lists(*kinds: str) -> tuple[list[str], ...]:
    """Lists of ``wonderwords``, as the owners have them."""
    from wonderwords import RandomWord

    categories = RandomWord()._categories
    return tuple(sorted(set(categories[kind])) for kind in kinds)


__all__ = ["SETTINGS", "NeedleTask", "draw", "hide", "word_lists"]
