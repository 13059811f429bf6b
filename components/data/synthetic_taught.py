"""What a teacher writes beyond solutions: textbook passages from documents, problems and programs of its own.

Nothing of it is believed: a passage may say no name or number that its source does not, a problem must be answered
alike by the teacher when it is asked again without the solution, and a program must pass its own tests in the sandbox.
"""

import hashlib
import random
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from components.data.candidates import ACCEPTED, Candidate
from components.data.documents import Document
from components.data.synthetic_mathematics import equations_hold
from components.data.words import comparable_words
from components.sandbox.run import run_many

if TYPE_CHECKING:
    from components.teacher import Teacher

ASKED_AT_ONCE = 100
SOURCE_CHARACTERS = 2_000
"""Of a document, that a passage is written from."""
FEWEST_WORDS = 40
COPIED_RUN, MOST_COPIED = 8, 0.3
"""A passage is a copy when more than this share of its runs of so many words stand in the source."""
MOST_UNKNOWN_NAMES = 0.1
FEWEST_ASSERTS = 3

TEXTBOOK = (
    "Write a section of a textbook for a curious student from the source below: explain what it is about, step by "
    "step, in your own words. State no name, number or date that the source does not state. Answer with the "
    "section only.\n\n"
    "<source>\n{source}\n</source>"
)
PROBLEM = (
    "Write a new word problem in mathematics for a student, of another story and with other numbers than the example. "
    "Begin with a line 'Problem: ' and the problem, then the solution, one equation a line, and end with a line "
    "'Answer: ' and only the number.\n\n<example>\n{example}\n</example>"
)
AGAIN = (
    "Solve the problem step by step, one equation a line, and end with a line 'Answer: ' and only the number.\n\n"
    "{problem}"
)
PROGRAM = (
    "Write one Python function about {subject}, with type annotations and a docstring that says what it does, and "
    "after it at least three assert statements that test it. Use the standard library only. Answer with the code only."
)
SUBJECTS = (
    "strings and their characters", "lists of numbers", "dictionaries and counting", "dates and calendars", "sorting",
    "searching", "recursion", "number theory", "geometry in the plane", "matrices", "graphs and paths", "intervals",
    "parsing a small text format", "text formatting", "sets", "bits", "roman numerals and number systems", "statistics",
    "binary trees", "iterators",
)  # fmt: skip
_NAME = re.compile(r"(?<=[a-z,;] )[A-Z][\w-]{2,}")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_FENCE = re.compile(r"```(?:python)?\n(.*?)```", re.S)


def write_textbook(documents: Sequence[Document], teacher: "Teacher") -> Iterator[Candidate]:
    """A passage for every document that holds enough to write one from."""
    sources = [d for d in documents if len(d.text) >= SOURCE_CHARACTERS // 4]
    for start in range(0, len(sources), ASKED_AT_ONCE):
        some = sources[start : start + ASKED_AT_ONCE]
        prompts = [TEXTBOOK.format(source=document.text[:SOURCE_CHARACTERS]) for document in some]
        for document, prompt, text in zip(some, prompts, teacher.complete_all(prompts), strict=True):
            evidence = {"source": document.text[:SOURCE_CHARACTERS]}
            meta = {"prompt": prompt_name("textbook", prompt), "grounded_in": document.id}
            yield Candidate(text.strip(), "textbook", None, evidence | {"meta": meta})


def verify_textbook(candidates: list[Candidate]) -> list[str]:
    return [_grounded(candidate.text, candidate.evidence["source"]) for candidate in candidates]


def _grounded(text: str, source: str) -> str:
    words, known = comparable_words(text), comparable_words(source)
    if len(words) < FEWEST_WORDS:
        return "too short"
    if set(_NUMBER.findall(text)) - set(_NUMBER.findall(source)):
        return "number not in the source"
    names = _NAME.findall(text)
    if sum(not set(comparable_words(name)) <= set(known) for name in names) > MOST_UNKNOWN_NAMES * len(names):
        return "name not in the source"
    runs, there = _runs(words), set(_runs(known))
    return "copied" if sum(run in there for run in runs) > MOST_COPIED * len(runs) else ACCEPTED


def _runs(words: list[str]) -> list[tuple[str, ...]]:
    return [tuple(words[start : start + COPIED_RUN]) for start in range(len(words) - COPIED_RUN + 1)]


def write_problems(examples: Iterator[Candidate], teacher: "Teacher") -> Iterator[Candidate]:
    """Endless problems with solutions, and the answers that the teacher gives when it sees only the problem."""
    while True:
        prompts = [PROBLEM.format(example=next(examples).text) for _ in range(ASKED_AT_ONCE)]
        written = [_lines(text) for text in teacher.complete_all(prompts)]
        again = teacher.complete_all([AGAIN.format(problem=lines[0] if lines else "") for lines in written])
        for prompt, lines, second in zip(prompts, written, again, strict=True):
            evidence = {"lines": lines, "again": _lines(second)}
            meta = {"prompt": prompt_name("problem", prompt)}
            yield Candidate("\n".join(lines), "problem", None, evidence | {"meta": meta})


def verify_problems(candidates: list[Candidate]) -> list[str]:
    return [_agreed(candidate.evidence["lines"], candidate.evidence["again"]) for candidate in candidates]


def _agreed(lines: list[str], again: list[str]) -> str:
    if len(lines) < 3 or not lines[0].startswith("Problem: "):
        return "no problem and solution"
    answers = [_answer(side) for side in (lines, again)]
    if answers[0] is None:
        return "no answer"
    if not equations_hold("\n".join(lines[1:-1])):
        return "wrong step"
    return ACCEPTED if answers[0] == answers[1] else "answered otherwise when asked again"


def _answer(lines: list[str]) -> Fraction | None:
    """The number of the last line; None where there is none."""
    found = _NUMBER.search(lines[-1].removeprefix("Answer: ")) if lines and lines[-1].startswith("Answer: ") else None
    if found is None:
        return None
    sign = -1 if lines[-1][: len("Answer: ") + found.start()].endswith("-") else 1
    try:
        return sign * Fraction(found.group().replace(",", ""))
    except ValueError:
        return None


def write_programs(teacher: "Teacher", rng: random.Random) -> Iterator[Candidate]:
    """Endless functions with tests, on subjects in a random order. Prompts differ by a number, so answers may."""
    number = 0
    while True:
        prompts = []
        for _ in range(ASKED_AT_ONCE):
            number += 1
            prompts.append(f"{PROGRAM.format(subject=rng.choice(SUBJECTS))} (Exercise {number})")
        for prompt, text in zip(prompts, teacher.complete_all(prompts), strict=True):
            fenced = _FENCE.search(text)
            code = (fenced.group(1) if fenced else text).strip() + "\n"
            yield Candidate(code, "program", None, {"meta": {"prompt": prompt_name("program", prompt)}})


def verify_programs(candidates: list[Candidate]) -> list[str]:
    """Every program alone in the sandbox: it is a stranger's code, and passes only with tests of its own."""
    results = iter(run_many([candidate.text for candidate in candidates if _tested(candidate.text)]))
    verdicts = []
    for candidate in candidates:
        if not _tested(candidate.text):
            verdicts.append("no function with tests")
            continue
        status = next(results).status
        verdicts.append(ACCEPTED if status == "passed" else status)
    return verdicts


def _tested(code: str) -> bool:
    return "def " in code and len(re.findall(r"^assert ", code, re.M)) >= FEWEST_ASSERTS


def prompt_name(kind: str, prompt: str) -> str:
    """``textbook/3f2a...``: which prompt, and the digest of what was asked in full."""
    return f"{kind}/{hashlib.sha256(prompt.encode()).hexdigest()[:16]}"


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.strip().splitlines() if line.strip()]
