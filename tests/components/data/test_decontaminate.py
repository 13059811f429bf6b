"""The decontamination rule against a plain dynamic programme, windows in long documents, and the stage."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import make_artifact, make_run

from components.data.contamination import EvaluationIndex, contaminates
from components.data.decontaminate import DecontaminateConfig, decontaminate
from components.data.documents import new_document, read_documents, write_documents
from components.data.sources import load_corpus

WORDS = [f"w{i}" for i in range(500)]
QUESTION = (
    "A train leaves the station at noon and travels north at sixty miles an hour while a second train leaves at two "
    "and follows it at ninety miles an hour; after how many hours does the second train catch up with the first one"
)


def longest_common_subsequence(a, b):
    """Wagner & Fischer's table, row by row."""
    row = [0] * (len(b) + 1)
    for x in a:
        previous = row
        row = [0]
        for j, y in enumerate(b):
            row.append(previous[j] + 1 if x == y else max(previous[j + 1], row[j]))
    return row[-1]


@given(st.lists(st.sampled_from("abc"), max_size=60), st.lists(st.sampled_from("abc"), max_size=60))
def test_the_rule_is_the_papers(train, test):
    common = longest_common_subsequence(train, test)
    shorter = min(len(train), len(test))
    assert contaminates(train, test) == (common >= 13 and 10 * common >= 6 * shorter)


@pytest.mark.parametrize(
    ("common", "length", "expected"), [(12, 12, False), (13, 13, True), (13, 21, True), (13, 22, False), (15, 25, True)]
)
def test_both_limits_are_inclusive(common, length, expected):
    test = [f"t{i}" for i in range(length)]
    train = test[:common] + [f"x{i}" for i in range(length)]
    assert contaminates(train, test) is expected


@pytest.fixture
def index():
    return EvaluationIndex([("set/0", QUESTION), ("set/1", "too short")])


def filler(seed, length):
    return random.Random(seed).choices([*WORDS, *QUESTION.lower().replace(";", "").split()], k=length)


def test_a_question_inside_a_long_document_is_found(index):
    document = filler(1, 3_000) + QUESTION.lower().replace(";", "").split() + filler(2, 3_000)
    match = index.match(document)
    assert match is not None
    assert match.item == "set/0"


def test_a_long_document_that_holds_the_words_of_a_question_by_chance_is_clean(index):
    question = QUESTION.lower().replace(";", "").split()
    document = filler(3, 10_000) + question[:13] + filler(4, 10_000)  # a real shared 13-gram, and all words around it
    assert longest_common_subsequence(document, question) >= 0.6 * len(question)
    assert index.shares_gram(document)
    assert index.match(document) is None


def test_a_short_document_that_is_a_part_of_a_question_is_found(index):
    assert index.match(QUESTION.lower().replace(";", "").split()[5:25]) is not None


def test_edits_do_not_hide_a_question(index):
    words = QUESTION.lower().replace(";", "").split()
    words[18] = "other"
    del words[30]
    assert index.match(filler(5, 50) + words + filler(6, 50)) is not None


def test_items_shorter_than_the_rule_are_counted(index):
    assert index.too_short == 1


def test_chinese_is_compared_by_characters():
    index = EvaluationIndex([("set/0", "三人出门，一带伞，一带拐杖，一空手。回来时，拿伞的湿透了。")])
    assert index.match(list("从前三人出门一带伞一带拐杖一空手回来时拿伞的湿透了后来")) is not None


@pytest.fixture
def config(tmp_path):
    (tmp_path / "bench.jsonl").write_text(json.dumps({"q": QUESTION}) + "\n")
    fields = {"name": "bench", "kind": "path", "path": "bench.jsonl", "format": "jsonl", "licence": "MIT"}
    lines = ["[[source]]", 'text = ["q"]', *(f'{key} = "{value}"' for key, value in fields.items())]
    (tmp_path / "bench.toml").write_text("\n".join(lines))
    return DecontaminateConfig(benchmarks=str(tmp_path / "bench.toml"), probes=20)


def test_the_stage_drops_what_matches_and_passes_the_rest(tmp_path, config):
    clean = [new_document(" ".join(filler(i, 80)), source="s", language="en") for i in range(20)]
    dirty = new_document(f"Once asked: {QUESTION.upper()}? Think.", source="s", language="en")
    write_documents(tmp_path / "mixture", [*clean[:10], dirty, *clean[10:]])
    (tmp_path / "mixture" / "mixture.json").write_text('{"a": 1}')
    runs = [make_run(tmp_path / name) for name in ("one", "two")]
    summaries = [decontaminate(config, {"documents": make_artifact("mixture", tmp_path / "mixture")}, r) for r in runs]
    assert list(read_documents(runs[0].output)) == clean
    (match,) = map(json.loads, (runs[0].output / "matches.jsonl").read_text().splitlines())
    assert (match["id"], match["item"]) == (dirty.id, "bench/0")
    assert (runs[0].output / "mixture.json").read_text() == '{"a": 1}'
    assert summaries[0]["by_reason"] == {"holds an item of bench": 1}
    found, lost = summaries[0]["effects"]
    assert found["value"] > 0.9
    assert lost["value"] < 0.2 < lost["baseline"]
    assert summaries[0] == summaries[1]
    for file in runs[0].output.iterdir():
        assert (runs[1].output / file.name).read_bytes() == file.read_bytes()


def test_the_wide_list_holds_every_set_that_evaluation_asks() -> None:
    corpora = Path(__file__).parents[3] / "recipes" / "corpora"
    wide = {source.name: source for source in load_corpus(corpora / "all-benchmarks.toml")}
    asked = [*load_corpus(corpora / "benchmarks.toml"), *load_corpus(corpora / "evaluation.toml")]
    only_read = {"punkt", "ruler-haystack"}  # no items: a sentence model, and prose to hide needles in
    assert {source.name for source in asked} - only_read == set(wide)
    assert all(wide[source.name].sha256 == source.sha256 for source in asked if source.name in wide)
