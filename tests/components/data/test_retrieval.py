import random

import pytest

from components.data.retrieval import retrieval_document, side_of

FILLER = [f"Sentence {number} tells of quiet rivers and of old mills." for number in range(200)]


@pytest.fixture
def document():
    return retrieval_document(random.Random(3), FILLER, 2_000, pairs=5, queries=3)


def test_answers_stand_in_the_context(document) -> None:
    for question in document.questions:
        assert f"The pass key of {question.name} is{question.answer}." in document.context


def test_size_is_near_the_target(document) -> None:
    assert 1_850 < len(document.text) < 2_150


def test_questions_are_distinct(document) -> None:
    assert len({question.name for question in document.questions}) == 3


def test_sides_share_no_name_and_no_number() -> None:
    for side in ("train", "evaluation"):
        document = retrieval_document(random.Random(1), FILLER, 3_000, pairs=8, queries=8, side=side)
        for question in document.questions:
            assert side_of(question.name) == side
            assert side_of(question.answer.strip()) == side


@pytest.mark.parametrize("depth", [0.0, 0.5, 1.0])
def test_depth_places_the_fact(depth: float) -> None:
    document = retrieval_document(random.Random(2), FILLER, 4_000, pairs=1, queries=1, depths=[depth])
    place = document.context.index("The pass key of") / len(document.context)
    assert place == pytest.approx(depth, abs=0.03)


def test_the_prompt_stops_before_the_answer(document) -> None:
    prompt = document.prompt(1)
    assert prompt.endswith(f"{document.questions[1].name} is")
    assert prompt.startswith(document.context)


def test_equal_seeds_give_equal_documents(document) -> None:
    assert document == retrieval_document(random.Random(3), FILLER, 2_000, pairs=5, queries=3)
