"""Retrieval documents: pass keys hidden in natural text, with questions that only the text can answer.

They teach what long context is for (find a fact by name, copy it) with several answers to predict in a document, and
the same generator makes the pass-key test. Names and numbers of the test never occur in training: each name and
number belongs to one side by a checksum of its spelling.
"""

import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Side = Literal["train", "evaluation"]

_ADJECTIVES = """
amber ancient azure bold brave bright bronze calm clever cobalt copper coral crimson crystal daring deep
eager early emerald fading fearless gentle golden grand green hidden hollow humble indigo iron ivory jade jolly keen
lively
loyal lucky lunar marble mellow misty noble northern olive orange pale patient polar proud purple quiet rapid rocky
royal ruby rustic sandy scarlet secret silent silver solar southern steady stormy sunny swift velvet violet wild
winter wise wooden yellow"""
_NOUNS = """
anchor arrow badger beacon bear bridge canyon castle cedar comet compass crane crow deer dolphin dragon
eagle falcon ferry finch forest fountain fox garden glacier harbor hawk heron horse island jaguar lantern lark leopard
lion lynx maple meadow mill moon mountain oak ocean orchid otter owl panther pine planet rabbit raven river robin
salmon shore sparrow spring stone swan temple tiger tower trail turtle valley violin whale willow wolf"""
_FIRST, _SECOND = _ADJECTIVES.split(), _NOUNS.split()

EVALUATION_PART = 5
"""One name and one number in this many belongs to the evaluation."""


@dataclass(frozen=True)
class Question:
    """``prompt`` ends just before the answer; the right continuation starts with ``answer``."""

    name: str
    prompt: str
    answer: str

    @property
    def text(self) -> str:
        return f"{self.prompt}{self.answer}."


@dataclass(frozen=True)
class RetrievalDocument:
    """``context`` holds the facts among filler; ``questions`` ask for some of them."""

    context: str
    questions: tuple[Question, ...]

    @property
    def text(self) -> str:
        return "\n".join([self.context, *(question.text for question in self.questions)])

    def prompt(self, question: int = 0) -> str:
        """The context and one question, up to its answer."""
        return f"{self.context}\n{self.questions[question].prompt}"


def retrieval_document(
    rng: random.Random,
    filler_sentences: Sequence[str],
    target_characters: int,
    pairs: int,
    queries: int,
    *,
    side: Side = "train",
    depths: Sequence[float] | None = None,
) -> RetrievalDocument:
    """Hide ``pairs`` pass keys in filler and ask for ``queries`` of them (at most all), each once.

    The text has about ``target_characters``, questions included. ``depths`` (0: at the start, 1: at the end of the
    filler) places the facts; without it they lie anywhere. ``side`` picks the names and numbers.
    """
    facts: dict[str, str] = {}
    while len(facts) < pairs:
        facts.setdefault(_name(rng, side), _number(rng, side))
    asked = rng.sample(sorted(facts), min(queries, pairs))
    questions = tuple(
        Question(name, f"What is the pass key of {name}? The pass key of {name} is", f" {facts[name]}")
        for name in asked
    )
    statements = [f"The pass key of {name} is {number}." for name, number in facts.items()]
    used = sum(len(question.text) + 1 for question in questions) + sum(len(fact) + 1 for fact in statements)
    filler = _filler(rng, filler_sentences, target_characters - used)
    places = [rng.random() for _ in facts] if depths is None else list(depths)
    for depth, statement in sorted(zip(places, statements, strict=True), reverse=True):
        filler.insert(_index_at(filler, depth), statement)
    return RetrievalDocument(" ".join(filler), questions)


def side_of(spelling: str) -> Side:
    """The side that a name or number belongs to."""
    return "evaluation" if zlib.crc32(spelling.encode()) % EVALUATION_PART == 0 else "train"


def _name(rng: random.Random, side: Side) -> str:
    while True:
        name = f"{rng.choice(_FIRST)} {rng.choice(_SECOND)}"
        if side_of(name) == side:
            return name


def _number(rng: random.Random, side: Side) -> str:
    while True:
        number = str(rng.randrange(10_000, 100_000))
        if side_of(number) == side:
            return number


def _filler(rng: random.Random, sentences: Sequence[str], characters: int) -> list[str]:
    """A run of neighbouring sentences of about ``characters``; it wraps around at the end."""
    chosen: list[str] = []
    size, place = 0, rng.randrange(len(sentences))
    while size < characters:
        sentence = sentences[place % len(sentences)]
        place += 1
        if chosen and size + len(sentence) > characters + len(sentence) // 2:
            break
        chosen.append(sentence)
        size += len(sentence) + 1
    return chosen


def _index_at(filler: Sequence[str], depth: float) -> int:
    """Index of the sentence border nearest to a share ``depth`` of the characters."""
    goal = depth * sum(len(sentence) for sentence in filler)
    ends, total = [0], 0
    for sentence in filler:
        total += len(sentence)
        ends.append(total)
    return min(range(len(ends)), key=lambda index: abs(ends[index] - goal))
