"""RewardBench, RMB and PPE from files in their authors' layouts, and what is counted as right."""

import json

import pandas as pd
import pytest

from components.preference.reward_benchmarks import SECTIONS, measure, question_of, read_benchmarks
from components.stage import StageError

ASKED = [{"role": "user", "content": "How many?", "language": "English"}]
REWARD_BENCH = {"id": 1, "prompt": "How many?", "chosen": "good 3", "rejected": "bad 2", "subset": "hep-go"}
REWARD_BENCH_2 = {
    "id": "7", "prompt": "How many?", "chosen": ["good 3"], "rejected": ["bad 1", "bad 2", "bad 4"], "subset": "Focus"
}  # fmt: skip
RMB_PAIR = {
    "pair_uid": "1", "conversation_input": ASKED, "chosen": {"llm_name": "a", "answer": "good 3", "score": 4.5},
    "reject": {"llm_name": "b", "answer": "bad 2", "score": 1.0}, "category_path": "Pairwise_set/Harmlessness/S7",
}  # fmt: skip
RMB_BEST = {
    "bon_uid": "2", "conversation_input": ASKED, "bon_best": {"llm_name": "a", "answer": "good 3"},
    "loser_list": [{"llm_name": "b", "answer": "bad 2"}, {"llm_name": "c", "answer": "bad 4"}],
    "category_path": "BoN_set/Helpfulness/Open QA/Factual",
}  # fmt: skip
PPE_HUMAN = {"prompt": "How many?", "response_1": "bad 2", "response_2": "good 3", "winner": "model_b"}
PPE_BEST = {
    "question_id": "math_1", "prompt": "How many?", "response_1": "bad 4", "response_2": "good 3",
    "response_3": "bad 1", "scores": [False, True, False], "sampled_conflict_pairs": [[0, 1], [1, 2]],
}  # fmt: skip


def by_number(conversations):
    """A reward model that likes high numbers."""
    return [float(talk[-1]["content"].split()[-1]) for talk in conversations]


@pytest.fixture
def folder(tmp_path):
    """One file of each benchmark, in the format that it is published in."""
    pd.DataFrame([REWARD_BENCH, REWARD_BENCH | {"subset": "donotanswer"}]).to_parquet(tmp_path / "filtered.parquet")
    pd.DataFrame([REWARD_BENCH_2]).to_parquet(tmp_path / "rewardbench2.parquet")
    below = tmp_path / "RMB_dataset" / "BoN_set"
    below.mkdir(parents=True)
    (below / "Factual.json").write_text(json.dumps([RMB_BEST]))
    (tmp_path / "RMB_dataset" / "S7.json").write_text(json.dumps([RMB_PAIR]))
    pd.DataFrame([PPE_HUMAN, PPE_HUMAN | {"winner": "tie"}]).to_parquet(tmp_path / "human.parquet")
    (tmp_path / "best.jsonl").write_text("\n".join(json.dumps(PPE_BEST) for _ in range(3)))
    return tmp_path


def test_all_benchmarks_are_read_from_one_folder(folder):
    found = measure(read_benchmarks(folder), by_number)
    assert {name: of["accuracy"]["n"] for name, of in found.items()} == {
        "PPE best-of-k": 3, "PPE human": 1, "RMB best-of-n": 1, "RMB pairs": 1, "RewardBench": 2, "RewardBench 2": 1
    }  # fmt: skip
    # 3 is above 2 everywhere; where a wrong answer says 4 it is on top
    assert {name: of["accuracy"]["value"] for name, of in found.items()} == {
        "PPE best-of-k": 0, "PPE human": 1, "RMB best-of-n": 0, "RMB pairs": 1, "RewardBench": 1, "RewardBench 2": 0
    }  # fmt: skip
    assert found["PPE best-of-k"]["pairs"]["value"] == 0.5
    assert found["PPE best-of-k"]["any answer"] == pytest.approx(1 / 3)
    assert list(found["RMB pairs"]["categories"]) == ["Harmlessness"]
    assert list(found["RMB best-of-n"]["categories"]) == ["Helpfulness"]
    assert list(found["PPE best-of-k"]["categories"]) == ["math"]


def test_a_limit_holds_for_every_category(folder):
    questions = read_benchmarks(folder, limit=1)
    assert sum(q.benchmark == "PPE best-of-k" for q in questions) == 1
    assert sum(q.benchmark == "RewardBench" for q in questions) == 2


def test_a_conversation_is_scored_with_all_its_turns():
    seen = []
    turns = [
        {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}
    ]  # fmt: skip
    question = question_of(RMB_PAIR | {"conversation_input": turns})
    measure([question], lambda talks: seen.extend(talks) or [1.0, 0.0])
    assert [len(talk) for talk in seen] == [4, 4]
    assert seen[0][:3] == turns and seen[0][3] == {"role": "assistant", "content": "good 3"}


def test_equal_scores_are_no_right_answer():
    rows = (REWARD_BENCH, REWARD_BENCH_2, RMB_PAIR, RMB_BEST, PPE_HUMAN, PPE_BEST)
    found = measure([question_of(row) for row in rows], lambda talks: [0.0] * len(talks))
    assert all(of["accuracy"]["value"] == 0 for of in found.values())


def test_of_tied_answers_every_right_one_must_be_above_every_wrong_one():
    row = REWARD_BENCH_2 | {"chosen": ["good 3", "good 9"]}
    assert measure([question_of(row)], by_number)["RewardBench 2"]["accuracy"]["value"] == 1
    ties = question_of(row | {"subset": "Ties"})
    assert measure([ties], by_number)["RewardBench 2"]["accuracy"]["value"] == 0


def test_rewardbench_weighs_subsets_as_its_authors_do():
    """Sizes of the sections as published (arXiv 2403.13787, table 1), with math-prm's 447 questions as 984."""
    sizes = {section: sum(weights.values()) for section, weights in SECTIONS.items()}
    assert sizes == {"Chat": 358, "Chat Hard": 456, "Safety": 740, "Reasoning": 984 + 6 * 164}
    rows = [REWARD_BENCH | {"subset": s} for weights in SECTIONS.values() for s in weights if s != "math-prm"]
    wrong = REWARD_BENCH | {"subset": "math-prm", "chosen": "1", "rejected": "2"}
    found = measure([question_of(row) for row in [*rows, wrong]], by_number)["RewardBench"]
    assert found["sections"] == {"Chat": 1, "Chat Hard": 1, "Safety": 1, "Reasoning": 0.5}
    assert found["score"] == 0.875


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", '[{"prompt": "?"}]', r"a\.json, row 1: not as RewardBench, RMB or PPE have it"),
        ("a.json", "[1]", "expected a list of rows"),
        ("a.jsonl", "{", "no valid JSONL"),
        ("a.json", json.dumps([RMB_BEST | {"loser_list": []}]), "no right answer or no wrong one"),
        ("a.txt", "", "no questions of RewardBench, RMB or PPE"),
    ],
)
def test_a_file_that_is_no_benchmark_is_an_error_that_says_where(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(StageError, match=message):
        read_benchmarks(tmp_path)
