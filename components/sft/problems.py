"""What a verifiable task is made of: a problem, a verdict, a family, and the answer formats that families share."""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Message = dict[str, str]
"""One turn: ``{"role": "user", "content": "..."}``."""


@dataclass(frozen=True)
class Problem:
    """One question with everything that is needed to judge an answer to it.

    ``answer`` and ``meta`` are JSON-able. ``answer`` is what the verifier reads; ``meta`` holds facts about how
    the problem was made, from which reference solutions and plausible mistakes are written. ``content`` is what
    is asked, without the wording: two problems of equal content are the same problem.
    """

    family: str
    content: str
    messages: list[Message]
    answer: Any
    meta: dict[str, Any] = field(default_factory=dict)


class Verdict(NamedTuple):
    """``format``: the response has the demanded form. ``correct``: the right content in that form."""

    correct: bool
    format: bool


@dataclass(frozen=True)
class Family:
    """A task family as plain functions.

    ``check(answer, response)`` judges; ``solve(problem, rng)`` writes a correct response, with a short chain of
    thought where it helps; ``mistake(problem, rng)`` writes a well-formed response with wrong content.
    """

    name: str
    domain: str
    generate: Callable[[random.Random], Problem]
    solve: Callable[[Problem, random.Random], str]
    mistake: Callable[[Problem, random.Random], str]
    check: Callable[[Any, str], Verdict]


ANSWER_DEMANDS = (
    "End with 'Answer: ...'.",
    "Finish with a line 'Answer: ...'.",
    "The last line must be 'Answer: ...'.",
    "Close with 'Answer: ...'.",
)

_ANSWER_LINE = re.compile(r"Answer: (\S.*)")


def final_answer(response: str) -> str | None:
    """The text after ``Answer: `` on the last line, or None when the response lacks that form.

    Exactly one answer line may occur, or a response could hedge with several.
    """
    lines = response.strip().split("\n")
    match = _ANSWER_LINE.fullmatch(lines[-1].strip())
    if match is None or response.count("Answer:") != 1:
        return None
    return match.group(1)


def check_answer_line(expected: Any, response: str) -> Verdict:
    """Verdict of the families whose answer is one exact text after ``Answer: ``."""
    given = final_answer(response)
    return Verdict(given == str(expected), given is not None)


_PLAIN_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")
_SAFE_EXPRESSION = re.compile(r"[-+*/(). \d\\{}$a-z]{1,32}")


def same_number(expected: str, given: str) -> bool:
    """Whether two texts denote the same number.

    Plain numbers are compared at once; only other short expressions (``1/2``, ``\\frac{1}{2}``) go to
    math-verify, which is about 1,000 times slower. Powers are never parsed: ``9^9^9`` would not end.
    """
    if _PLAIN_NUMBER.fullmatch(given):
        return float(given) == float(expected)
    if not _SAFE_EXPRESSION.fullmatch(given) or "**" in given or not any(c.isdigit() for c in given):
        return False
    import logging

    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)
    # Timeouts of math-verify need signals and so the main thread; the length limit above bounds the work.
    gold, guess = parse(expected, parsing_timeout=None), parse(f"${given}$", parsing_timeout=None)
    return bool(verify(gold, guess, timeout_seconds=None))


def user(text: str) -> list[Message]:
    """A conversation of one user turn."""
    return [{"role": "user", "content": text}]


def ask(question: str, rng: random.Random) -> list[Message]:
    """A user turn that states ``question`` and demands the ``Answer: `` line in one of several wordings."""
    return user(f"{question} {rng.choice(ANSWER_DEMANDS)}")


_WORDS = """
river stone water house light music green horse world money field tower ocean wood moon bear wolf lion gold iron
tree sand book city hand tiger eagle whale swan fox deer crow silver copper bridge garden forest winter island storm
"""
_NAMES = "John Ben Jack Kate Nina Sam Tom Will Mary Peter Alice Mark Tim Bob Bill Dan Max Ann Kim Mia"
_PLACES = "Rome India China Iran Oman York Paris Italy Spain France Cork Chile"

WORDS, NAMES, PLACES = _WORDS.split(), _NAMES.split(), _PLACES.split()
"""Small closed sets of common words: a small vocabulary holds them whole, and a small model can learn to copy them."""
