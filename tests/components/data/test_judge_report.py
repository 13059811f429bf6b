"""The report on the judge: agreement where there is some, drift where it was put in, and both kinds of disagreement."""

import random

import numpy as np
import pytest
from support import make_run

from components.data.clean import CleanConfig
from components.data.documents import new_document, write_documents
from components.data.judge_report import drift, judge_report, verdict_of
from components.data.quality import QualityConfig
from components.data.sources import PathSource

SUBJECTS = ("The river", "This theorem", "A small village", "The old bridge", "Her first novel", "The spiral galaxy")
VERBS = ("was described in", "is known from", "appears in", "was studied during", "was named after", "depends on")
OBJECTS = ("the great survey of 1894", "the works of a local teacher", "many of the later reports", "the last ice age")
HINTS = ("encyclopedia", "entertainment", "science", "literature")


def prose(rng: random.Random, sentences: int) -> str:
    return " ".join(f"{rng.choice(SUBJECTS)} {rng.choice(VERBS)} {rng.choice(OBJECTS)}." for _ in range(sentences))


def letters(rng: random.Random) -> str:
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz     ") for _ in range(300))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory):
    rng, folder = random.Random(0), tmp_path_factory.mktemp("judge")
    good = [
        new_document(f"{prose(rng, 6)} {n}", source="good", language="en", meta={"domain_hint": HINTS[n % 4]})
        for n in range(300)
    ]
    short = [new_document(f"{prose(rng, 1)} {n}", source="short", language="en") for n in range(30)]
    junk = [new_document(letters(rng), source="junk", language="en", meta={"label": "junk"}) for _ in range(60)]
    write_documents(folder / "documents", good)
    write_documents(folder / "ingested", [*good, *short, *junk])
    for name, lines in (("spam", [letters(rng) for _ in range(40)]), ("ham", [prose(rng, 3) for _ in range(40)])):
        (folder / f"{name}.txt").write_text("\n".join(lines))
    known = [
        PathSource(
            name=f"{name}-lines", kind="path", path=f"{name}.txt", format="text", first_rows=100, language="en",
            licence="none",
        )
        for name in ("spam", "ham")
    ]  # fmt: skip
    config = QualityConfig(judged_documents=200, keep_share=0.9)
    run = make_run(tmp_path_factory.mktemp("run"))
    return judge_report(config, CleanConfig(), folder / "ingested", folder / "documents", known, folder, run)


def test_agreement_is_reported_by_dimension_and_language(report) -> None:
    rows = {row["dimension"]: row for row in report["agreement"]}
    assert rows["cleanliness"]["language"] == "en"
    assert rows["cleanliness"]["low"] > 0.5
    assert rows["cleanliness"]["low"] <= rows["cleanliness"]["auc"] <= rows["cleanliness"]["high"] <= 1


def test_labels_of_others_are_told_apart(report) -> None:
    rows = {row["name"]: row for row in report["known"]}
    assert rows["spam against ham"]["good"] == rows["spam against ham"]["bad"] == 40
    assert all(row["low"] > 0.5 and row["auc"] > row["letters_auc"] for row in rows.values())
    junk = rows["junk against real text"]
    assert junk["bad_below"] > 0.9 > 0.3 > junk["good_below"]


def test_what_judge_and_filters_keep_adds_up(report) -> None:
    (row,) = report["heuristics"]
    assert sum(row[verdict] for verdict in ("both", "only the judge", "only the filters", "neither")) == 330
    assert row["only the judge"] > 0 < row["only the filters"]
    assert all(sample["filters"] for sample in report["samples"]["only the judge"])
    assert all(not sample["filters"] for sample in report["samples"]["only the filters"])
    assert all(sample["overall"] < report["threshold"] for sample in report["samples"]["only the filters"])


def test_who_keeps_a_document() -> None:
    found = [verdict_of(judged, filtered) for judged in (True, False) for filtered in (True, False)]
    assert found == ["both", "only the judge", "only the filters", "neither"]


def test_drift_is_nothing_for_alike_groups_and_large_for_a_shifted_one() -> None:
    rng = np.random.default_rng(0)
    scores = np.concatenate([rng.uniform(0, 1, 4_000), rng.uniform(0.8, 1, 400)])
    groups = np.array(["one", "two"] * 2_000 + ["shifted"] * 400)
    rows = {row["name"]: row for row in drift("source", groups, scores)}
    assert next(iter(rows)) == "shifted"
    assert rows["shifted"]["index"] > 1
    assert max(rows["one"]["index"], rows["two"]["index"]) < 0.1
