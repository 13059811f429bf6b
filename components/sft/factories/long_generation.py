"""Factory 1, long generation: queries back-translated from long documents, with a demand on the length.

The default back-translation is extractive: the document's own heading and its most telling words become the query.
A pair is kept where the response has the demanded length, is about what the query asks, does not repeat itself and
ends with a sentence. Documents are the reference manual and the library's own documentation that come with the
interpreter; a model writes the queries where a teacher is given (``query_request``).
"""

import ast
import random
import re
import sysconfig
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from pathlib import Path

from components.sft.factories.factory import Candidate, Factory, Verdict, accept, one_by_one, reject
from components.sft.problems import Message, user

LENGTHS = (150, 300, 600, 1200, 2400, 4800)
"""Words that a query may ask for; the longest is about the report's 8,192 tokens."""
TOLERANCE = 0.15
COVERED = 0.85
"""Share of the asked words that a response must have."""
_COMMON = {
    "the", "and", "for", "that", "are", "with", "this", "not", "from", "which", "can", "when", "have", "will", "used",
}  # fmt: skip


@cache
def documents() -> tuple[str, ...]:
    """Long plain texts, each once, in a fixed order: the manual's topics, then the library's docstrings."""
    from pydoc_data.topics import topics

    texts = [*(text for _, text in sorted(topics.items())), *_docstrings()]
    return tuple(dict.fromkeys(text for text in texts if len(text.split()) > LENGTHS[0]))


def _docstrings() -> Iterator[str]:
    """Of the modules, classes and functions of the standard library; read, not imported."""
    root = Path(sysconfig.get_path("stdlib"))
    for file in sorted(root.rglob("*.py")):
        if {"site-packages", "dist-packages", "test", "tests", "idlelib"} & set(file.relative_to(root).parts):
            continue
        try:
            tree = ast.parse(file.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError):  # lib2to3 and others hold files that are broken on purpose
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                yield ast.get_docstring(node) or ""


def write(rng: random.Random, planted_share: float) -> Iterator[Candidate]:
    """A planted error is a response that is too short, about something else, or that repeats itself."""
    texts = documents()
    while True:
        document = rng.choice(texts)
        wanted = rng.choice([length for length in LENGTHS if length <= len(document.split())])
        text = _from_a_paragraph(document, wanted, rng)
        response = _cut(text, wanted)
        query = f"{_query(text)} Write about {wanted} words."
        planted = rng.choice(("short", "off topic", "repetition")) if rng.random() < planted_share else ""
        if planted == "short":
            response = _cut(text, wanted // 2)
        elif planted == "off topic":
            others = [t for t in texts if len(t.split()) >= wanted and _covered(keywords(text), t) <= 0.5]
            response, planted = (_cut(rng.choice(others), wanted), planted) if others else (_cut(text, 20), "short")
        elif planted == "repetition":
            part = " ".join(text.split()[:40])
            response = " ".join([part] * (wanted // 40)) + "."
        facts = {"words": wanted, "asked": list(keywords(text)), "source": heading(document)}
        yield Candidate("back-translation", user(query), response, None, facts, planted)


def _from_a_paragraph(document: str, words: int, rng: random.Random) -> str:
    """The document from the start of one of the paragraphs after which enough of it is left."""
    paragraphs = document.split("\n\n")
    left, starts = 0, []
    for place in range(len(paragraphs) - 1, -1, -1):
        left += len(paragraphs[place].split())
        if left >= words:
            starts.append(place)
    return "\n\n".join(paragraphs[rng.choice(starts) :])


def check(candidate: Candidate) -> Verdict:
    """Length, subject, repetition and end."""
    words = candidate.response.split()
    wanted = candidate.facts["words"]
    if abs(len(words) - wanted) > TOLERANCE * wanted:
        return reject("length", words=len(words), wanted=wanted)
    covered = _covered(candidate.facts["asked"], candidate.response)
    if covered < COVERED:
        return reject("not about the query", covered=covered)
    grams = Counter(zip(*(words[i:] for i in range(8)), strict=False))
    repeated = 1 - len(grams) / max(1, sum(grams.values()))
    if repeated > 0.3:
        return reject("repetition", repeated=repeated)
    if not candidate.response.rstrip().endswith((".", ":", ")", "!")):
        return reject("no end")
    return accept(words=len(words), wanted=wanted, covered=covered, repeated=round(repeated, 3))


@lru_cache(maxsize=4096)
def keywords(text: str) -> tuple[str, ...]:
    """Its eight most frequent words that are not common ones; they stand in the first part, too."""
    head = set(" ".join(text.split()[: LENGTHS[0]]).lower().split())
    words = Counter(w for w in re.findall(r"[a-z]{4,}", text.lower()) if w not in _COMMON and w in head)
    return tuple(word for word, _ in words.most_common(8)) or ("python",)


def query_request(text: str) -> list[Message]:
    """What a model is asked for a document's query."""
    return user(f"Write the one request to an assistant to which the following text is the answer.\n\n{text[:6000]}")


def _covered(asked: Sequence[str], text: str) -> float:
    known = _words(text)
    return sum(word in known for word in asked) / len(asked)


@lru_cache(maxsize=1024)
def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z]+", text.lower()))


def heading(text: str) -> str:
    """Its first line."""
    return next(line.strip() for line in text.splitlines() if line.strip())


def _query(text: str) -> str:
    return f"Explain '{heading(text)}' in the Python language. Cover {', '.join(keywords(text))}."


def _cut(text: str, words: int) -> str:
    """About so many words, up to the end of a sentence."""
    pieces, count = [], 0
    for sentence in re.split(r"(?<=[.:!)])\s+", text.strip()):
        pieces.append(sentence)
        count += len(sentence.split())
        if count >= words:
            break
    return " ".join(pieces)


FACTORY = Factory(1, "long_generation", write, one_by_one(check))
