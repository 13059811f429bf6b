"""Recall documents say again exactly what was given, and the check finds those that do not."""

import random
from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from components.data.candidates import ACCEPTED
from components.data.synthetic_recall import verify, vocabulary, write

WORDS = vocabulary(["The mill stands by the river.", "People grind corn and talk of rain prices"])


@given(st.integers(0, 1000))
def test_the_check_knows_right_from_wrong(seed):
    candidates = list(islice(write(WORDS, 0.5, random.Random(seed)), 20))
    assert [verdict == ACCEPTED for verdict in verify(candidates)] == [c.correct for c in candidates]


def test_the_same_seed_writes_the_same():
    first, second = (list(islice(write(WORDS, 0.1, random.Random(3)), 10)) for _ in range(2))
    assert first == second


def test_vocabulary_has_each_word_once():
    assert vocabulary(["a b b", "B c 7"]) == ["a", "b", "c"]
