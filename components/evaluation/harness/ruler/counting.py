"""Common words and frequent words: what a text says most often, of a list of words or of a coded text."""

import string
from random import Random

import numpy as np
from scipy.special import zeta

from components.evaluation.harness.ruler.example import Example
from components.evaluation.harness.ruler.needles import word_lists

COMMON = 10
ORDER = 42
"""Seed of the coded text's order, as the owners fix it."""


def common_words(size: int, rng: Random, length: int) -> Example:
    """``size`` different words, ``COMMON`` of them 30 times and the others 3 times (6 and once below 4,096 tokens)."""
    often, seldom = (30, 3) if length >= 4096 else (6, 1)
    words = rng.sample(vocabulary(), size)
    common, others = words[:COMMON], words[COMMON:]
    listed = common * often + others * seldom
    rng.shuffle(listed)
    context = " ".join(f"{number}. {word}" for number, word in enumerate(listed, 1))
    text = (
        "Below is a numbered list of words. In these words, some appear more often than others. Memorize the ones that "
        f"appear most often.\n{context}\nQuestion: What are the 10 most common words in the above list?"
    )
    return Example(text, "Answer: The top 10 words that appear most often in the list are:", tuple(common), "\n\n")


def frequent_words(size: int, rng: Random, length: int, alpha: float = 2.0) -> Example:
    """About ``size`` coded words of six letters whose counts follow a zeta distribution; three are asked for."""
    kinds = max(4, length // 50)
    words = {"".join(rng.choices(string.ascii_lowercase, k=6)) for _ in range(kinds)}
    while len(words) < kinds:
        words.add("".join(rng.choices(string.ascii_lowercase, k=6)))
    ranked = sorted(words)
    Random(ORDER).shuffle(ranked)
    ranked[0] = "..."  # the commonest is noise
    counts = (size * np.arange(1, kinds + 1) ** -alpha / zeta(alpha)).astype(int)
    coded = [word for word, count in zip(ranked, counts.tolist(), strict=True) for _ in range(count)]
    Random(ORDER).shuffle(coded)
    text = (
        "Read the following coded text and track the frequency of each coded word. Find the three most frequently "
        f"appeared coded words. {' '.join(coded)}\nQuestion: Do not provide any explanation. Please ignore the dots "
        "'....'. What are the three most frequently appeared words in the above coded text?"
    )
    prefix = "Answer: According to the coded text above, the three most frequently appeared words are:"
    return Example(text, prefix, tuple(ranked[1:4]))


def vocabulary() -> list[str]:
    """Nouns, adjectives and verbs."""
    return sorted({word for words in word_lists("noun", "adjective", "verb") for word in words})


__all__ = ["COMMON", "common_words", "frequent_words", "vocabulary"]
