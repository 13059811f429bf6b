"""Pairs of known order for six criteria: what differs in them, and what their parts do not share."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from post_training import documents_of_sentences, sentences

from components.data.documents import new_document
from components.preference import criterion_wordings as words
from components.preference.criterion_pairs import CRITERIA, criterion_pairs, passage_of, passages_of
from components.stage import StageError
from infra.catalog import CRITERIA as ASKED_OF_PEOPLE

DOCUMENTS = documents_of_sentences()
PASSAGES = passages_of(DOCUMENTS, limit=1_000)
MADE = criterion_pairs(PASSAGES, {"train": 150, "fit": 20, "heldout": 80}, seed=1)


def of(criterion, fault=""):
    return [each for each in MADE if each.pair.task == criterion and fault in (each.fault, "")]


def answered(each, text):
    """Whether the word that the question asks for is in the text."""
    prompt = each.pair.messages[0]["content"]
    passage = passage_of(prompt.split("\n")[0])
    assert passage is not None
    return re.search(rf"\b{re.escape(passage.gap)}\b", text) is not None


def test_criteria_are_those_that_people_are_asked_about():
    assert tuple(CRITERIA) == ASKED_OF_PEOPLE


def test_a_word_is_asked_for_that_stands_once_behind_words_that_stand_once():
    assert len(PASSAGES) > 300
    for passage in PASSAGES:
        assert passage.text.count(passage.before) == 1
        assert f"{passage.before} {passage.gap}" in passage.text


def test_texts_in_other_languages_and_synthetic_ones_are_no_seeds():
    text = sentences(1)[0]
    others = [
        new_document(text, source="t", language="de"),
        new_document(text, source="t", language="en", domain="synthetic-x"),
    ]
    assert passages_of(others, limit=9) == []
    assert len(passages_of([*others, new_document(text, source="t", language="en")], limit=9)) == 1


def test_a_wrong_answer_differs_from_the_right_one_by_its_word():
    for each in of("truthfulness"):
        assert answered(each, each.pair.chosen) and not answered(each, each.pair.rejected)
        right, wrong = each.pair.chosen.split(), each.pair.rejected.split()
        assert len(right) == len(wrong) and sum(a != b for a, b in zip(right, wrong, strict=True)) == 1


def test_an_unhelpful_answer_holds_no_answer_and_a_padded_one_the_same():
    for each in of("helpfulness"):
        assert answered(each, each.pair.chosen) and not answered(each, each.pair.rejected)
    for each in of("conciseness"):
        assert answered(each, each.pair.chosen) and each.pair.chosen in each.pair.rejected
        assert len(each.pair.rejected) > len(each.pair.chosen)


def test_what_is_off_topic_is_of_another_text():
    for each in of("relevance", "quotes another text"):
        text = each.pair.messages[0]["content"].split("\n")[0]
        quoted = re.search(r"(\S+ \S+ \S+)\W*$", each.pair.chosen)
        assert quoted and quoted[1].strip("'.") in text
        foreign = re.search(r"(\S+ \S+ \S+ \S+ \S+)\W*$", each.pair.rejected)
        assert foreign and foreign[1].strip("'.") not in text
    for each in of("relevance", "answers another question"):
        assert answered(each, each.pair.chosen) and not answered(each, each.pair.rejected)


def test_bias_is_wrong_both_where_the_text_decides_and_where_it_does_not():
    for each in of("debiasing", "prejudice against the text"):
        culprit = re.search(r"\. (The [\w ]+?) (could|was|forgot|had|did|got)", each.pair.messages[0]["content"])
        assert culprit
        who = culprit[1].lower()
        assert who in each.pair.chosen.lower() and who not in each.pair.rejected.lower()
    opened = of("debiasing", "guessed where it is open")
    assert opened and all("One of them" in each.pair.messages[0]["content"] for each in opened)
    assert {each.fault for each in of("debiasing")} == {
        "guessed where it is open", "prejudice against the text", "undecided against the text", "prejudice added"
    }  # fmt: skip


def test_parts_share_no_passage_and_no_harm_and_no_group():
    by_part = {part: {e.pair.id.split("-")[1] for e in MADE if e.part == part} for part in ("train", "fit", "heldout")}
    assert not by_part["train"] & by_part["heldout"] and not by_part["fit"] & (by_part["train"] | by_part["heldout"])
    asked = [(e.pair.task, e.pair.messages[0]["content"].lower()) for e in MADE if e.part != "heldout"]
    harms = " ".join(text for task, text in asked if task == "harmlessness")
    scenes = " ".join(text for task, text in asked if task == "debiasing")
    for things in (words.THINGS[True], words.VICTIMS[True]):
        assert not any(f"{thing} of" in harms or f"of {thing}" in harms for thing in things)
    assert not any(f"the {who} " in scenes for pair in words.GROUPS[True] for who in pair)


def test_half_of_the_held_out_pairs_use_wordings_of_their_own():
    for criterion in CRITERIA:
        heldout = [each for each in of(criterion) if each.part == "heldout"]
        assert sum(each.unseen for each in heldout) == len(heldout) / 2
        assert not any(each.unseen for each in of(criterion) if each.part != "heldout")
    trained = {each.pair.rejected for each in of("helpfulness") if each.part != "heldout"}
    unseen = {each.pair.rejected for each in of("helpfulness") if each.unseen}
    assert unseen and not trained & unseen


def test_pairs_depend_on_the_seed_alone():
    again = criterion_pairs(list(PASSAGES), {"train": 150, "fit": 20, "heldout": 80}, seed=1)
    assert again == MADE
    assert criterion_pairs(PASSAGES, {"train": 10}, seed=2) != criterion_pairs(PASSAGES, {"train": 10}, seed=1)


def test_too_few_sentences_are_an_error_that_says_so():
    with pytest.raises(StageError, match="9 sentences are needed for pairs, the documents have 3"):
        criterion_pairs(PASSAGES[:3], {"train": 9}, seed=0)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="abc ,.'X", max_size=80))
def test_any_text_is_read_without_an_error(text):
    passage = passage_of(text)
    assert passage is None or text.count(passage.before) == 1
