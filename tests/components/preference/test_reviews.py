"""Human verdicts over automated ones."""

import json

import pytest

from components.preference.pair_store import Pair
from components.preference.pairs import PairsConfig
from components.preference.reviews import HumanVerdict, override, read_reviews, unseen
from components.stage import StageError

PROMPT = [{"role": "user", "content": "which?"}]


def pair(number: int) -> Pair:
    return Pair(f"q{number}-0", "train", "truth", PROMPT, f"good {number}", f"poor {number}", 1.0, 0.5)


def verdict(number: int, said: str, a: str = "", b: str = "") -> HumanVerdict:
    return HumanVerdict(f"old{number}-3", "train", "truth", PROMPT, a or f"poor {number}", b or f"good {number}", said)


def test_people_confirm_turn_and_drop_pairs_and_the_others_stay():
    pairs = [pair(number) for number in range(5)]
    kept, changes = override(pairs, [verdict(0, "b"), verdict(1, "a"), verdict(2, "tie"), verdict(3, "bad")])
    assert [(p.id, p.chosen, p.rejected, p.source) for p in kept] == [
        ("q0-0", "good 0", "poor 0", "human"), ("q1-0", "poor 1", "good 1", "human"),
        ("q4-0", "good 4", "poor 4", "verified"),
    ]  # fmt: skip
    assert changes == {"confirmed": 1, "turned": 1, "dropped": 2}


def test_what_people_decided_on_other_answers_is_added_and_their_refusals_are_not():
    found = unseen([pair(0)], [verdict(0, "a"), verdict(1, "a"), verdict(2, "tie")])
    assert [(p.chosen, p.source) for p in found] == [("poor 1", "human")]


@pytest.mark.parametrize("line", ["{", '{"id": "x"}', json.dumps({**vars(verdict(0, "a")), "verdict": "better"})])
def test_a_line_that_is_no_review_is_named(tmp_path, line):
    file = tmp_path / "reviews.jsonl"
    file.write_text(json.dumps(vars(verdict(0, "a"))) + "\n" + line + "\n")
    with pytest.raises(StageError, match=r"reviews.jsonl, line 2: no review"):
        read_reviews(file)


def test_without_reviews_the_config_is_what_it_was_and_with_them_their_content_counts(tmp_path):
    assert not {"reviews", "reviews_sha256"} & PairsConfig().model_dump(mode="json").keys()
    file = tmp_path / "reviews.jsonl"
    dumps = []
    for said in ("a", "b"):
        file.write_text(json.dumps(vars(verdict(0, said))) + "\n")
        dumps.append(PairsConfig(reviews=str(file)).model_dump(mode="json"))
    assert dumps[0]["reviews"] == dumps[1]["reviews"]
    assert dumps[0]["reviews_sha256"] != dumps[1]["reviews_sha256"]
    with pytest.raises(ValueError, match="qwenforge reviews export"):
        PairsConfig(reviews=str(tmp_path / "none"))
