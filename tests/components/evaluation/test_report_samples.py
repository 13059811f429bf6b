"""Kept and dropped documents on the report card: how many, from which stage, with which reason."""

import json

import pytest
from support import make_artifact

from components.data.documents import new_document, write_documents
from components.evaluation.report_samples import document_samples, in_turns


def lines(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    root = tmp_path_factory.mktemp("stages")
    clean = [new_document(f"document {i}", source="wiki", language="en") for i in range(60)]
    clean.append(new_document("document 3", source="web", language="en"))  # an exact copy
    write_documents(root / "clean", clean)
    dropped = [("no stop words", f"x{i}") for i in range(3)] + [("lorem ipsum", "y")]
    lines(root / "clean" / "dropped.jsonl", [{"reason": r, "source": "web", "id": t, "text": t} for r, t in dropped])
    write_documents(root / "deduplicate", clean[:50])
    clusters = [{"kept": clean[i].id, "dropped": [clean[50 + i].id]} for i in range(10)]
    clusters.append({"kept": clean[3].id, "dropped": [clean[3].id]})
    lines(root / "deduplicate" / "clusters.jsonl", clusters)
    write_documents(root / "quality", clean[:40])
    judged = [{"kept": i < 20, "overall": i / 40, "source": "wiki", "text": f"judged {i}"} for i in range(40)]
    lines(root / "quality" / "samples.jsonl", judged)
    for number, document in enumerate(clean[:40]):
        document.domain = "science" if number % 10 else "law"
        document.quality = {"overall": 0.75}
        document.copies = 1 + (number == 0)
    write_documents(root / "decontaminate", clean[:40])
    match = {"id": "m", "source": "wiki", "item": "mmlu/7", "common_words": 14, "of": 20, "text": "What is a whale?"}
    lines(root / "decontaminate" / "matches.jsonl", [match])
    names = ("clean", "deduplicate", "quality", "decontaminate")
    return {name: make_artifact("corpus", root / name) for name in names}


def test_twenty_kept_and_twenty_dropped_each_with_its_reason(inputs):
    samples = document_samples(inputs, seed=1)
    sides = [sample["decision"] for sample in samples]
    assert sides == ["kept"] * 20 + ["dropped"] * 20
    assert all(sample["reason"] and sample["text"] and sample["source"] for sample in samples)
    assert {sample["stage"] for sample in samples[20:]} == {"clean", "deduplicate", "quality", "decontaminate"}


def test_kept_ones_come_from_the_end_and_from_every_domain(inputs):
    kept = document_samples(inputs, seed=1)[:20]
    assert {sample["stage"] for sample in kept} == {"decontaminate"}
    assert sum(sample["reason"].startswith("law") for sample in kept) == 4  # all that there are
    assert len({sample["text"] for sample in kept}) == 20
    (twice,) = [sample for sample in kept if sample["text"] == "document 0"]
    assert twice["reason"] == "law, quality 0.75, seen 2 times"


def test_reasons_name_rule_score_item_and_the_document_that_stays(inputs):
    reasons = {s["text"]: s for s in document_samples(inputs, seed=1, each=100) if s["decision"] == "dropped"}
    assert reasons["y"]["reason"] == "lorem ipsum"
    assert reasons["judged 30"]["reason"] == "quality 0.75, too low"
    assert "judged 5" not in reasons
    assert reasons["document 57"]["reason"] == "copy or near copy of a document from wiki: “document 7…”"
    assert reasons["document 3"]["reason"].startswith("exact copy of a document from wiki")
    assert reasons["document 3"]["source"] == "web"
    assert reasons["What is a whale?"]["reason"] == "holds mmlu/7: 14 of 20 words"


def test_the_same_stages_give_the_same_samples_and_another_seed_others(inputs):
    assert document_samples(inputs, seed=1) == document_samples(inputs, seed=1)
    assert document_samples(inputs, seed=1)[:20] != document_samples(inputs, seed=2)[:20]


def test_a_run_that_stopped_early_shows_what_there_is(inputs):
    assert document_samples({}, seed=1) == []
    early = document_samples({"clean": inputs["clean"]}, seed=1)
    assert [sample["decision"] for sample in early] == ["kept"] * 20 + ["dropped"] * 4


def test_turns():
    assert in_turns([[1, 2, 3], [], [4]], 3) == [1, 4, 2]
