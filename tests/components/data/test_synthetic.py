import json
import random
from itertools import islice
from pathlib import Path

import pytest

from components.data import synthetic_code, synthetic_knowledge, synthetic_mathematics
from components.data.candidates import ACCEPTED
from components.data.documents import new_document, read_documents, write_documents
from components.data.synthetic import SyntheticConfig, synthesize
from tests.support import make_artifact, make_run

FAMILIES = SyntheticConfig().families
ARTICLE = (
    "Lake Orna is a deep lake in the northern hills of the province. It was mapped in 1894 by the surveyor Anton Berg. "
    "The Orna Dam is the oldest dam of the region. Fishing has been the main trade of its villages since 1702. "
) * 3


def agreement(candidates, verdicts) -> float:
    return sum((v == ACCEPTED) == c.correct for c, v in zip(candidates, verdicts, strict=True)) / len(candidates)


def test_mathematics_is_accepted_exactly_when_it_is_right() -> None:
    candidates = list(islice(synthetic_mathematics.write(FAMILIES, 0.5, random.Random(0), batch=30), 270))
    assert {candidate.family for candidate in candidates} == set(FAMILIES)
    assert agreement(candidates, synthetic_mathematics.verify(candidates)) > 0.95


def test_a_right_answer_after_a_wrong_step_is_refused() -> None:
    candidate = next(
        c for c in synthetic_mathematics.write({"products": {"max_digits": 2}}, 0.0, random.Random(1)) if "+" in c.text
    )
    lines = candidate.evidence["lines"]
    lines[0] = lines[0].rpartition("=")[0] + "= 1"
    assert synthetic_mathematics.verify([candidate]) == ["wrong step"]


@pytest.mark.parametrize(
    ("text", "holds"),
    [("2 + 3 = 5", True), ("2 + 3 = 6", False), ("1 / 3 * 3 = 1", True), ("x = 4", True), ("-2 - -5 = 3", True),
     ("1 / 0 = 1", False)],
)  # fmt: skip
def test_equations_are_evaluated_exactly(text: str, holds: bool) -> None:
    assert synthetic_mathematics.equations_hold(text) is holds


def test_code_is_accepted_exactly_when_its_asserts_run() -> None:
    candidates = list(islice(synthetic_code.write(0.5, random.Random(0)), 120))
    assert agreement(candidates, synthetic_code.verify(candidates)) == 1.0


def test_code_that_takes_its_group_along_does_not_cost_the_others_their_verdict() -> None:
    from dataclasses import replace

    good, *_ = (c for c in islice(synthetic_code.write(0.0, random.Random(0)), 1))
    hanging = replace(good, text="import os\nos._exit(3)")
    assert synthetic_code.verify([good, hanging]) == [ACCEPTED, "failed"]


def test_knowledge_is_accepted_exactly_when_the_source_says_it() -> None:
    documents = [new_document(ARTICLE + str(n), source="test", language="en") for n in range(10)]
    candidates = list(synthetic_knowledge.write(documents, 0.4, random.Random(0)))
    assert len(candidates) >= 10
    assert agreement(candidates, synthetic_knowledge.verify(candidates)) == 1.0


def test_retrieval_is_accepted_exactly_when_the_context_says_it() -> None:
    sentences = synthetic_knowledge.sentences_of(ARTICLE)
    candidates = list(islice(synthetic_knowledge.write_retrieval(sentences, (500, 1500), 0.4, random.Random(0)), 60))
    assert agreement(candidates, synthetic_knowledge.verify_retrieval(candidates)) == 1.0


@pytest.fixture
def corpus(tmp_path: Path):
    documents = [new_document(f"{ARTICLE}{n}", source="test", language="en", domain="encyclopaedia") for n in range(20)]
    write_documents(tmp_path / "corpus", documents)
    return make_artifact("corpus", tmp_path / "corpus")


def test_the_stage_keeps_what_is_right_and_says_how_much_that_was(tmp_path: Path, corpus) -> None:
    config = SyntheticConfig(mathematics_bytes=8_000, code_bytes=5_000, knowledge_bytes=3_000, retrieval_bytes=6_000)
    first, second = make_run(tmp_path / "1"), make_run(tmp_path / "2")
    summary = synthesize(config, {"documents": corpus}, first)

    documents = list(read_documents(first.output))
    assert {d.domain for d in documents} == {
        f"synthetic-{k}" for k in ("math", "code", "knowledge", "retrieval", "recall")
    }
    assert all(document.meta["verdict"] == ACCEPTED for document in documents)
    for effect in summary["effects"]:
        assert effect["value"] > 0.97 > effect["baseline"]
    assert json.dumps(summary) == json.dumps(synthesize(config, {"documents": corpus}, second))
    for file in first.output.iterdir():
        assert file.read_bytes() == (second.output / file.name).read_bytes()
