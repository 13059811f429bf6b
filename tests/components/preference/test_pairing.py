"""Pairs from judged answers: order, nearness in length, balance, the second review."""

from hypothesis import given, settings
from hypothesis import strategies as st

from components.preference.pair_store import Pair, read_pairs, write_pairs
from components.preference.pairing import Judged, balance, heldout, pairs_of_prompt, review
from components.sft.conversation_store import Conversation

CONVERSATION = Conversation("p-1", "preference", "truth", [{"role": "user", "content": "?"}], "true", {})


def judged(text, tokens, correct=False, form=True):
    return Judged(text, tokens, True, correct, form)


answers = st.lists(
    st.builds(
        lambda text, tokens, form, correct: judged(text, tokens, form and correct, form),
        st.sampled_from("abcdefgh"), st.integers(1, 9), st.booleans(), st.booleans(),
    ),
    max_size=8, unique_by=lambda answer: answer.text,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(answers, st.integers(1, 4), st.booleans())
def test_chosen_always_scores_higher_and_the_limit_holds(given_answers, limit, graded):
    pairs = pairs_of_prompt(CONVERSATION, given_answers, limit=limit, heldout_share=0.1, graded=graded)
    assert len(pairs) <= limit
    assert len({(p.chosen, p.rejected) for p in pairs}) == len(pairs)
    for pair in pairs:
        assert pair.chosen_score > pair.rejected_score
        assert graded or pair.chosen_score == 1.0


def test_nearest_in_length_is_rejected():
    pairs = pairs_of_prompt(
        CONVERSATION, [judged("right", 5, True), judged("far", 30), judged("near", 6)], limit=1, heldout_share=0.1
    )
    assert (pairs[0].chosen, pairs[0].rejected) == ("right", "near")


def test_all_right_or_all_wrong_gives_no_pair():
    for correct in (True, False):
        same = [judged("a", 1, correct), judged("b", 2, correct)]
        assert pairs_of_prompt(CONVERSATION, same, limit=3, heldout_share=0.1) == []


def make_pair(chosen="Answer: true", rejected="Answer: false", task="truth", name="p-1-0"):
    return Pair(name, "train", task, CONVERSATION.messages, chosen, rejected, 1.0, 0.5)


def test_review_names_the_reason():
    assert review(make_pair(), CONVERSATION, 100) is None
    assert review(make_pair("Answer: false", "Answer: true"), CONVERSATION, 100) == "order"
    assert review(make_pair("x" * 200 + "\nAnswer: true"), CONVERSATION, 100) == "length"
    assert review(make_pair("so\nso\nAnswer: true"), CONVERSATION, 100) == "repetition"


def test_balance_caps_the_large_family_only():
    pairs = [make_pair(name=f"a-{i}-0") for i in range(100)]
    for task in ("json", "repeat"):
        pairs += [make_pair(task=task, name=f"{task}-{i}-0") for i in range(10)]
    kept = [pair.task for pair in balance(pairs, 2.0)]
    assert {task: kept.count(task) for task in set(kept)} == {"truth": 20, "json": 10, "repeat": 10}


def test_held_out_share_is_met_and_fixed_by_the_id():
    names = [f"preference-truth-{i:05d}" for i in range(4000)]
    share = sum(heldout(name, 0.1) for name in names) / len(names)
    assert 0.08 < share < 0.12


def test_pairs_survive_storage(tmp_path):
    pairs = [make_pair(), make_pair("Answer: true\n", "昨日", name="p-2-0")]
    write_pairs(tmp_path, pairs)
    assert read_pairs(tmp_path, "train") == pairs
    assert read_pairs(tmp_path, "heldout") == []
