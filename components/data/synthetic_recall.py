"""Recall documents: random items, given once and then said again. Nothing but the context can predict them.

Language models copy with induction heads, a circuit of two layers (Olsson et al. 2022, arXiv 2209.11895); natural
text of a pocket corpus alone is too little to form it, and retrieval, tables and arithmetic all stand on it. Random
items make every repeated token evidence for copying and none for memory.
"""

import random
from collections.abc import Iterator, Sequence

from components.data.candidates import ACCEPTED, Candidate

AGAIN = "\nThe same again: "
REORDERED = "\n\nIn another order:\n"


def write(words: Sequence[str], error_share: float, rng: random.Random) -> Iterator[Candidate]:
    """Endless lists said twice, and records said again in another order; in some of them one item is wrong."""
    while True:
        correct = rng.random() >= error_share
        if rng.random() < 0.5:
            items = [_item(words, rng) for _ in range(rng.randrange(6, 36))]
            again = list(items)
            if not correct:
                again[rng.randrange(len(again))] += "x"
            yield Candidate(f"{' '.join(items)}{AGAIN}{' '.join(again)}", "list", correct)
        else:
            records = {_item(words, rng): _item(words, rng) for _ in range(rng.randrange(3, 14))}
            lines = [f"{name}: {value}" for name, value in records.items()]
            again = rng.sample(lines, len(lines))
            if not correct:
                again[rng.randrange(len(again))] += "x"
            yield Candidate("\n".join(lines) + REORDERED + "\n".join(again), "records", correct)


def verify(candidates: list[Candidate]) -> list[str]:
    """Accepted when what is said again is what was given."""
    verdicts = []
    for candidate in candidates:
        given, separator, again = candidate.text.partition(AGAIN if candidate.family == "list" else REORDERED)
        same = given == again if candidate.family == "list" else sorted(given.split("\n")) == sorted(again.split("\n"))
        verdicts.append(ACCEPTED if separator and same else "not what was given")
    return verdicts


def vocabulary(sentences: Sequence[str]) -> list[str]:
    """Words of the corpus, each once, in alphabetical order."""
    return sorted({word.lower() for sentence in sentences for word in sentence.split() if word.isalpha()})


def _item(words: Sequence[str], rng: random.Random) -> str:
    """A word, or a number of up to five digits."""
    return rng.choice(words) if rng.random() < 0.6 else str(rng.randrange(10 ** rng.randrange(1, 6)))
