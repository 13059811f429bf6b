"""A factory whose responses are a teacher's: rejection sampling with a language model (section 4.1 of the report).

The factory's prompts, facts and check stay; the teacher answers each prompt several times, and the check keeps what
holds. Before its question stands another of the same task with the factory's own response, which shows the form that
the check reads. In long generation it is the query that the teacher writes, for a document that is there
(back-translation).
Candidates that are wrong on purpose stay as the factory wrote them and keep watch over the check.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from components.sft.factories.factory import Candidate, Factory
from components.sft.factories.long_generation import keywords, query_request
from components.sft.problems import Message, user
from components.teacher import Teacher

_FENCED = re.compile(r"```[\w+#-]*\n(.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Sampling:
    """How a teacher is asked."""

    samples: int
    temperature: float
    max_tokens: int
    seed: int
    at_once: int = 32
    """Prompts that the teacher gets at a time; answers do not depend on it."""


def taught(factory: Factory, teacher: Teacher, sampling: Sampling) -> Factory:
    """The factory with the teacher's responses. Of each prompt ``sampling.samples`` candidates come in a row."""
    by_query = factory.name == "long_generation"

    def write(rng: random.Random, planted_share: float) -> Iterator[Candidate]:
        written = factory.write(rng, planted_share)
        shown: dict[str, Candidate] = {}  # task -> the last right one
        while True:
            some = list(islice(written, sampling.at_once))
            asked = [query_request(one.response) if by_query else _shown_first(one, shown) for one in some]
            answers = teacher.sample_all(
                asked, samples=sampling.samples, max_tokens=sampling.max_tokens, temperature=sampling.temperature,
                seed=sampling.seed,
            )  # fmt: skip
            for one, texts in zip(some, answers, strict=True):
                own = [_with_query(one, text) if by_query else _with_response(factory, one, text) for text in texts]
                yield from [one, *own[1:]] if one.planted else own

    return replace(factory, write=write)


def batch_size(wanted: int, samples: int) -> int:
    """About so many candidates, and whole prompts."""
    return samples * max(1, wanted // samples)


def pass_rates(candidates: list[Candidate], accepted: list[bool], samples: int) -> list[float]:
    """Share of the responses to a candidate's prompt that hold, one for each candidate: how easy the prompt is."""
    rates: list[float] = []
    for start in range(0, len(candidates), samples):
        group = slice(start, start + samples)
        own = [a for c, a in zip(candidates[group], accepted[group], strict=True) if not c.planted]
        rates += [sum(own) / max(1, len(own))] * len(candidates[group])
    return rates


def _shown_first(candidate: Candidate, shown: dict[str, Candidate]) -> list[Message]:
    """What the teacher is asked: the last question of this task, its response, then the candidate's own question."""
    other = shown.get(candidate.task)
    if not candidate.planted:
        shown[candidate.task] = candidate
    if other is None:
        return candidate.messages
    *before, question = candidate.messages  # a system prompt, if any, goes first
    return [*before, other.messages[-1], {"role": "assistant", "content": other.response}, question]


def _with_response(factory: Factory, written: Candidate, text: str) -> Candidate:
    text = text.strip()
    if factory.name == "coding" and (fenced := _FENCED.search(text)):
        text = fenced[1]
    return replace(written, response=text, planted="")


def _with_query(written: Candidate, text: str) -> Candidate:
    query = " ".join(text.split()) or "?"
    facts: dict[str, Any] = {**written.facts, "asked": list(keywords(query))}
    return replace(
        written, messages=user(f"{query} Write about {written.facts['words']} words."), facts=facts, planted=""
    )
