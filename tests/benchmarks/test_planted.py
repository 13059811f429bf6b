"""The benchmark of planted faults: its generator makes what it says, and the count tells found from missed."""

import random

import pytest

from benchmarks import planted
from benchmarks.planted_faults import JUNK, PERSONAL, embedded, near_copy, payment_card, pick
from components.data.documents import new_document
from components.data.personal import luhn

TEXT = " ".join(f"word{i}" for i in range(200))


def test_a_near_copy_differs_in_the_share_of_words_that_was_asked_for():
    words = set(near_copy(TEXT, 0.05, random.Random(0)).split())
    assert 190 <= len(words & set(TEXT.split())) < 200


def test_cards_have_a_right_check_digit():
    assert all(luhn(payment_card(random.Random(seed))) for seed in range(50))


def test_kinds_come_in_turn_and_a_seed_gives_the_same_faults():
    kinds = {**JUNK, **PERSONAL}
    faults = pick(random.Random(1), kinds, 2 * len(kinds))
    assert [kind for kind, _ in faults] == list(kinds) * 2
    assert faults == pick(random.Random(1), kinds, 2 * len(kinds))


def test_what_is_embedded_is_there_in_one_piece():
    assert "a question here" in embedded("One. Two. Three.", "a question here.", random.Random(0))


def test_faults_are_found_and_clean_documents_kept(tmp_path, monkeypatch):
    def documents(rng, count):
        def text():
            return " ".join(f"{rng.choice(['the', 'of', 'and'])} word{rng.randrange(5_000)}" for _ in range(60)) + "."

        return [new_document(text(), source="made", language="en") for _ in range(count)]

    items = [(f"set/{i}", " ".join(f"q{i}x{j}" for j in range(30))) for i in range(9)]
    monkeypatch.setattr(planted, "clean_documents", documents)
    monkeypatch.setattr(planted, "read_items", lambda config: items)
    monkeypatch.setattr("components.data.decontaminate.read_items", lambda config: items)
    result = planted.measure(tmp_path, 100, seed=1)
    assert result["rows"]["clean documents lost"] == {"hits": 0, "of": 100}
    assert {name: row["hits"] / row["of"] for name, row in result["rows"].items()} == pytest.approx(
        {
            "near copies (5% of words edited)": 1.0, "junk": 1.0, "benchmark questions": 1.0, "personal data": 1.0,
            "clean documents lost": 0.0,
        }, abs=0.06,
    )  # fmt: skip
