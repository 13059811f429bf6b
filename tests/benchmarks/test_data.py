"""The data benchmark compares like with like."""

import random

import numpy as np
import pytest

from benchmarks.data import compare, tokenizing
from components.data.dedup_probe import jaccard
from components.data.documents import new_document

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_ratios_are_of_processor_time_and_the_first_turn_is_left_out():
    calls = []

    def spends(loops):
        def contender(documents):
            calls.append(loops)
            return sum(range(loops))

        return contender

    row = compare(spends(200_000), spends(2_000_000), [], turns=3)
    assert row["ratio"] > 3
    assert len(calls) == 2 * 4


def test_both_tokenize_to_the_same_number_of_tokens():
    documents = [new_document(f"the cat number {i} sat on a mat", source="s", language="en") for i in range(40)]
    ours, theirs = tokenizing(documents)
    assert ours(documents) == theirs(documents)


def test_equal_filters_agree_on_plain_cases():
    pytest.importorskip("datatrove", reason="needs the extra peers")
    from benchmarks.data import cleaning

    prose = (
        "The old mill stood at the end of the valley and nobody had lived there for years, so that it was to be sold. "
    )
    texts = [prose + " ".join(f"word{'abcdefghij'[i % 10]}{i}" for i in range(60)) + ".", "1 2 3 4 " * 30, "short"]
    ours, theirs = cleaning()
    documents = [new_document(text, source="s", language="en") for text in texts]
    assert [ours([d]) for d in documents] == [theirs([d]) for d in documents] == [1, 0, 0]


def test_both_signatures_estimate_the_same_similarity(tmp_path):
    pytest.importorskip("datatrove", reason="needs the extra peers")
    from benchmarks.data import minhash

    rng = random.Random(0)
    vocabulary = ["".join(rng.choices("abcdefgh", k=6)) for _ in range(1_000)]  # no digits: datatrove takes them as one
    original = rng.choices(vocabulary, k=400)
    copy = [word if rng.random() > 0.05 else "another" for word in original]
    documents = [new_document(" ".join(words), source="s", language="en") for words in (original, copy)]
    alike = [
        np.mean(np.array(first) == np.array(second)) for first, second in (f(documents) for f in minhash(tmp_path))
    ]
    exact = jaccard(original, copy, 3)
    assert alike == pytest.approx([exact, exact], abs=4 * np.sqrt(exact * (1 - exact) / 125))
