"""Factory 7, cross-lingual transfer: instructions carried from English to other languages, kept where meanings agree.

The default translator knows sentences of a closed set in eight languages. The check shares nothing with it but the
numbers: it looks for the facts of the original (numbers, names, the answer) in the translated answer, for the
language's own script or function words, and for what is left of the English. A model's translations pass the same
check.
"""

import random
import re
from collections.abc import Iterator

from components.sft.factories.factory import Candidate, Factory, Verdict, accept, one_by_one, reject
from components.sft.problems import NAMES, user

ENGLISH = ("{a} has {x} apples and buys {y} more. How many apples does {a} have?", "{a} has {z} apples.")
TRANSLATIONS = {
    "de": ("{a} hat {x} Äpfel und kauft {y} dazu. Wie viele Äpfel hat {a}?", "{a} hat {z} Äpfel."),
    "fr": ("{a} a {x} pommes et en achète {y} de plus. Combien de pommes a {a} ?", "{a} a {z} pommes."),
    "es": ("{a} tiene {x} manzanas y compra {y} más. ¿Cuántas manzanas tiene {a}?", "{a} tiene {z} manzanas."),
    "it": ("{a} ha {x} mele e ne compra altre {y}. Quante mele ha {a}?", "{a} ha {z} mele."),
    "sw": ("{a} ana tufaha {x} na ananunua {y} zaidi. {a} ana tufaha ngapi?", "{a} ana tufaha {z}."),
    "id": ("{a} punya {x} apel dan membeli {y} lagi. Berapa apel yang dimiliki {a}?", "{a} punya {z} apel."),
    "zh": ("{a}有{x}个苹果,又买了{y}个。{a}有多少个苹果?", "{a}有{z}个苹果。"),
    "ru": ("У {a} {x} яблок, и ещё {y} куплено. Сколько яблок у {a}?", "У {a} {z} яблок."),
}
MARKS = {
    "de": r"\b(hat|Äpfel)\b", "fr": r"\bpommes\b", "es": r"\b(tiene|manzanas)\b", "it": r"\b(ha|mele)\b",
    "sw": r"\b(ana|tufaha)\b", "id": r"\b(punya|apel)\b", "zh": r"[\u4e00-\u9fff]", "ru": r"[\u0400-\u04ff]",
}  # fmt: skip
_ENGLISH_WORDS = re.compile(r"\b(has|apples|and|buys|how|many)\b", re.IGNORECASE)


def write(rng: random.Random, planted_share: float) -> Iterator[Candidate]:
    """A planted error is an answer with another number or name, left in English, or in a third language."""
    while True:
        language = rng.choice(sorted(TRANSLATIONS))
        name, other = rng.sample(NAMES, 2)
        x, y = rng.randrange(2, 60), rng.randrange(2, 60)
        values = {"a": name, "x": x, "y": y, "z": x + y}
        planted = rng.choice(("number", "name", "english", "language")) if rng.random() < planted_share else ""
        said, form = dict(values), TRANSLATIONS[language][1]
        if planted == "number":
            said["z"] = x + y + rng.choice((-1, 1, 10))
        elif planted == "name":
            said["a"] = other
        elif planted == "english":
            form = ENGLISH[1]
        elif planted == "language":
            form = TRANSLATIONS[rng.choice([one for one in sorted(TRANSLATIONS) if one != language])][1]
        original = [part.format(**values) for part in ENGLISH]
        facts = {"language": language, "original": original}
        prompt = TRANSLATIONS[language][0].format(**values)
        yield Candidate(language, user(prompt), form.format(**said), original[1], facts, planted)


def check(candidate: Candidate) -> Verdict:
    """Facts of the original answer against the translated one, then the language."""
    original, given = candidate.facts["original"][1], candidate.response
    numbers = re.findall(r"\d+", original), re.findall(r"\d+", given)
    if sorted(numbers[0]) != sorted(numbers[1]):
        return reject("numbers differ", original=numbers[0], given=numbers[1])
    names = set(re.findall(r"\b[A-Z][a-z]+\b", original))
    if missing := [name for name in names if name not in given]:
        return reject("name lost", missing=missing)
    if _ENGLISH_WORDS.search(given):
        return reject("not translated")
    language = candidate.facts["language"]
    own = re.search(MARKS[language], given) is not None
    others = [name for name, mark in MARKS.items() if name != language and re.search(mark, given)]
    if not own or others:
        return reject("another language", found=others)
    questions = candidate.facts["original"][0], candidate.messages[-1]["content"]
    if sorted(re.findall(r"\d+", questions[0])) != sorted(re.findall(r"\d+", questions[1])):
        return reject("question differs")
    return accept(language=language, numbers=numbers[0], names=sorted(names))


FACTORY = Factory(7, "cross_lingual", write, one_by_one(check))
