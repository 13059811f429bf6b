"""Features of a document for the small classifiers: hashed word n-grams and a few dense statistics.

One vocabulary of features for all languages: a token is a word, a single Chinese or Japanese character, or a run of
punctuation. About 0.3 ms a document on one core.
"""

import re
import zlib
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import HashingVectorizer

EXCERPT = 1200
"""Characters of a document that are read, from its start."""

_TOKEN = r"[\u3040-\u30ff\u4e00-\u9fff]|[^\W_\u3040-\u30ff\u4e00-\u9fff]+|[^\w\s]+"
_WORD = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]|[^\W\d_\u3040-\u30ff\u4e00-\u9fff]+")
_SENTENCE = re.compile(r"[^.!?。！？\n]+")
_MARKUP = re.compile(r"</?[a-zA-Z][^>\n]{0,80}>|&[a-z]{2,6};|https?://")
_MOJIBAKE = re.compile("[ÃÂâ€�][\u0080-\u00bf€™œž]|�")
DENSE = (
    "alphabetic", "digits", "upper case", "punctuation", "white space", "word length", "distinct words",
    "line length", "distinct lines", "lines that end a sentence", "sentence length", "neighbouring overlap",
    "compressibility", "markup", "mojibake", "perplexity", "length",
)  # fmt: skip


def ngrams(texts: Sequence[str], bits: int = 16, binary: bool = False) -> sparse.csr_matrix:
    """L2-normalised counts of hashed tokens and token pairs, ``(texts, 2**bits)``."""
    vectorizer = HashingVectorizer(
        n_features=1 << bits, ngram_range=(1, 2), token_pattern=_TOKEN, alternate_sign=False, binary=binary, norm="l2"
    )
    return vectorizer.transform([text[:EXCERPT] for text in texts])


class CharacterModel:
    """Trigram model over characters, interpolated with bigrams: how surprising a text is, in nats a character.

    Counts are hashed into fixed tables, so it holds every script in the same memory.
    """

    SIZE = 1 << 20

    def __init__(self, texts: Sequence[str]) -> None:
        self.trigrams, self.bigrams, self.unigrams = (np.zeros(self.SIZE, dtype=np.float64) for _ in range(3))
        for text in texts:
            first, second, third = self._keys(text)
            np.add.at(self.unigrams, first, 1.0)
            np.add.at(self.bigrams, second, 1.0)
            np.add.at(self.trigrams, third, 1.0)
        self.total = max(1.0, float(self.unigrams.sum()))

    def surprise(self, text: str) -> float:
        """Mean negative log probability of a character given the two before it."""
        if len(text) < 3:
            return 0.0
        first, second, third = self._keys(text)
        unigram = (self.unigrams[first[2:]] + 0.5) / (self.total + 5_000)
        bigram = (self.bigrams[second[1:]] + 2 * unigram) / (self.unigrams[first[1:-1]] + 2)
        trigram = (self.trigrams[third] + 2 * bigram) / (self.bigrams[second[:-1]] + 2)
        return float(-np.log(np.maximum(trigram, 1e-12)).mean())

    def _keys(self, text: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        codes = np.frombuffer(text[:EXCERPT].encode("utf-32-le", "replace"), dtype=np.uint32).astype(np.uint64)
        pairs = codes[:-1] * np.uint64(1_000_003) + codes[1:]
        triples = pairs[:-1] * np.uint64(1_000_003) + codes[2:]
        mask = np.uint64(self.SIZE - 1)
        spread = np.uint64(0x9E3779B97F4A7C15)  # Fibonacci hashing: the high bits of the product are well mixed
        return tuple(((keys * spread) >> np.uint64(40)) & mask for keys in (codes, pairs, triples))  # type: ignore[return-value]


def dense_features(texts: Sequence[str], model: CharacterModel) -> np.ndarray:
    """Statistics in the order of ``DENSE``, ``(texts, len(DENSE))`` float64."""
    return np.array([_statistics(text[:EXCERPT], model) for text in texts], dtype=np.float64).reshape(-1, len(DENSE))


def _statistics(text: str, model: CharacterModel) -> list[float]:
    size = max(1, len(text))
    alphabetic = sum(map(str.isalpha, text))
    digits = sum(map(str.isdigit, text))
    blanks = sum(map(str.isspace, text))
    words = _WORD.findall(text)
    lines = [line for line in text.split("\n") if line.strip()] or [""]
    sentences = [set(_WORD.findall(sentence.lower())) for sentence in _SENTENCE.findall(text)[:12]]
    encoded = text.encode("utf-8", "replace")
    return [
        alphabetic / size,
        digits / size,
        sum(map(str.isupper, text)) / size,
        (size - alphabetic - digits - blanks) / size,
        blanks / size,
        min(20.0, sum(map(len, words)) / max(1, len(words))),
        len({word.lower() for word in words}) / max(1.0, len(words) ** 0.8),
        np.log1p(size / len(lines)),
        len(set(lines)) / len(lines),
        sum(line.rstrip()[-1:] in ".!?:;。！？”\"'" for line in lines) / len(lines),
        np.log1p(len(words) / max(1, len(sentences))),
        _overlap(sentences),
        len(zlib.compress(encoded, 1)) / (len(encoded) + 20),
        min(1.0, 50 * len(_MARKUP.findall(text)) / size),
        min(1.0, 50 * len(_MOJIBAKE.findall(text)) / size),
        model.surprise(text),
        np.log1p(size),
    ]


def _overlap(sentences: list[set[str]]) -> float:
    """Mean share of a sentence's words that the sentence before it has too."""
    pairs = [(a, b) for a, b in pairwise(sentences) if a and b]
    return sum(len(a & b) / min(len(a), len(b)) for a, b in pairs) / len(pairs) if pairs else 0.0
