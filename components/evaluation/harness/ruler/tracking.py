"""Variable tracking: a chain of assignments in noise; all names of one value are asked for, after an example."""

import string
from itertools import pairwise
from random import Random

from components.evaluation.harness.ruler.example import Example

NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.\n"
HOPS = 4
TEXT = (
    "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n{context}\nQuestion: Find "
    "all variables that are assigned the value {value} in the text above."
)
PREFIX = (
    "Answer: According to the chain(s) of variable assignment in the text above, {count} variables are assgined the "
    "value {value}, they are:"
)
"""Spelt as the owners spell it."""


def track(size: int, rng: Random, example: str = "") -> Example:
    """A chain among ``size`` repetitions of the noise, after ``example``."""
    text, prefix, names = chain(size, rng, letters=5)
    return Example(f"{example}{text}", prefix, tuple(names))


def shown(size: int, rng: Random) -> str:
    """An example with its answer, of names of three letters, that goes before a question."""
    text, prefix, names = chain(size, rng, letters=3)
    return f"{text} {prefix}  {' '.join(names)}\n\n\n\n"


def chain(size: int, rng: Random, letters: int) -> tuple[str, str, list[str]]:
    """Text, beginning of the answer, and the names of a chain with ``HOPS`` hops."""
    names = ["".join(rng.choices(string.ascii_uppercase, k=letters)) for _ in range(HOPS + 1)]
    while len(set(names)) <= HOPS:
        names = ["".join(rng.choices(string.ascii_uppercase, k=letters)) for _ in range(HOPS + 1)]
    value = str(rng.randrange(10_000, 99_999))
    steps = [f"VAR {names[0]} = {value}"]
    steps += [f"VAR {name} = VAR {before} " for before, name in pairwise(names)]
    lines = [NOISE] * size
    if len(lines) <= len(steps):  # short texts are cut at every sentence, to make room
        lines = [part + "." if part.strip() else part for line in lines for part in line.split(".")]
    places = sorted(rng.sample(range(len(lines)), len(steps)))
    for number, (place, step) in enumerate(zip(places, steps, strict=True)):
        lines.insert(place + number, step)
    context = " ".join(lines).replace(". \n", ".\n")
    return TEXT.format(context=context, value=value), PREFIX.format(count=HOPS + 1, value=value), names


__all__ = ["HOPS", "chain", "shown", "track"]
