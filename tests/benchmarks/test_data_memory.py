"""The inputs that memory is measured on are all different, and the same each time."""

import pytest

from benchmarks.data import grows
from benchmarks.data_memory import CHARACTERS, made_of
from components.data.documents import new_document

TEXT = " ".join(f"The {word} is in the house of the {word} and stays there." for word in "abcdefghij" * 4)


def test_documents_are_different_and_of_the_size_asked_for() -> None:
    documents = [new_document(TEXT, source="s", language="en")]
    made = list(made_of(documents, 1))
    sizes = [len(document.text.encode()) for document in made]
    assert 1e6 <= sum(sizes) < 1e6 + max(sizes)
    assert len({document.id for document in made}) == len(made)
    assert sum(sizes) / len(sizes) == pytest.approx(CHARACTERS, rel=0.2)
    assert [document.id for document in made_of(documents, 1)] == [document.id for document in made]


def test_growth_is_from_the_smallest_input_that_has_such_a_process() -> None:
    peaks = {
        "1000": {"main": 120, "worker": 220},
        "10": {"main": 100, "worker": 0},
        "100": {"main": 110, "worker": 100},
    }
    assert not grows(peaks, "main")
    assert grows(peaks, "worker")
    assert not grows(peaks, "worker", index=2e-7)
    assert not grows({"10": {"main": 1, "worker": 0}}, "worker")
