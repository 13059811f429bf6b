import random
from pathlib import Path

import pytest

from components.data.documents import new_document, read_documents, write_documents
from components.data.domain_seeds import SEEDS, seed_label, without_seeds
from components.data.domains import DOMAINS, DomainsConfig, classify_domains
from tests.support import make_artifact, make_run

CONTEXTS = {
    "science": "the sample was heated and then measured against a control group in the laboratory bench",
    "news": "crowds gathered downtown after the vote as mayors spoke of new rules for the city",
    "encyclopaedia": "born into a farming family he founded a parish whose population was listed by census",
}


def text_of(domain: str, rng: random.Random, seeds: int = 0) -> str:
    words = [rng.choice(CONTEXTS[domain].split()) for _ in range(40)]
    return " ".join([*words, *rng.sample(sorted(w for w in SEEDS.get(domain, ()) if w.isascii()), seeds)])


@pytest.fixture
def corpus(tmp_path: Path):
    rng = random.Random(0)
    hints = {"encyclopaedia": "encyclopedia", "science": "science"}
    documents = []
    for number in range(300):
        domain = list(CONTEXTS)[number % 3]
        # news is known by its seed words alone; of each domain, every fifth document carries no label at all
        meta, seeds = ({"domain_hint": hints[domain]}, 0) if domain in hints else ({"domain_hint": "web"}, 5)
        if number % 5 == 0:
            meta, seeds = {"domain_hint": "web"}, 0
        document = new_document(f"{text_of(domain, rng, seeds)} {number}", source=domain, language="en", meta=meta)
        documents.append(document)
    write_documents(tmp_path / "corpus", documents)
    return make_artifact("corpus", tmp_path / "corpus")


def test_unlabelled_documents_get_the_domain_of_their_context(tmp_path: Path, corpus) -> None:
    run = make_run(tmp_path)
    summary = classify_domains(DomainsConfig(), {"documents": corpus}, run)
    documents = list(read_documents(run.output))
    assert sum(document.domain == document.source for document in documents) > 0.95 * len(documents)
    assert summary["decided_by"]["classifier"] > 40
    assert next(e["low"] for e in summary["effects"] if "source" in e["name"]) > 0
    assert {document.domain for document in documents} <= set(DOMAINS)


def test_equal_inputs_give_equal_bytes(tmp_path: Path, corpus) -> None:
    runs = [make_run(tmp_path / name) for name in "ab"]
    first, second = (classify_domains(DomainsConfig(), {"documents": corpus}, run) for run in runs)
    assert first == second
    for file in runs[0].output.iterdir():
        assert file.read_bytes() == (runs[1].output / file.name).read_bytes()


@pytest.mark.parametrize(
    ("text", "domain"),
    [("The court heard the plaintiff and the judge asked the attorney.", "law-finance"),
     ("球队的演员在电视上唱歌，观众喜欢电影和音乐。", "entertainment"), ("Nothing here says anything.", None)],
)  # fmt: skip
def test_seed_words_label_in_english_and_chinese(text: str, domain: str | None) -> None:
    assert seed_label(text, 3) == domain


def test_two_domains_at_once_are_no_label() -> None:
    assert seed_label("court judge attorney theorem proof lemma", 3) is None


def test_seed_words_are_hidden_from_the_classifier() -> None:
    hidden = without_seeds("The court asked the old miller. 法院在河边")
    assert seed_label(hidden, 1) is None
    assert "miller" in hidden and "河边" in hidden


@pytest.mark.parametrize(("hint", "share"), [("", {"other": 1.0}), ("law", {"law-finance": 1.0})])
def test_a_corpus_without_labels_or_of_one_domain_goes_on_and_says_what_would_help(
    tmp_path: Path, hint: str, share: dict[str, float]
) -> None:
    documents = [
        new_document(f"Nothing is said {n}", source="s", language="en", meta={"domain_hint": hint}) for n in range(30)
    ]
    write_documents(tmp_path / "corpus", documents)
    run = make_run(tmp_path)
    summary = classify_domains(DomainsConfig(), {"documents": make_artifact("corpus", tmp_path / "corpus")}, run)
    assert summary["shares"] == share
    assert summary["effects"] == []
    assert "domain_hint" in run.messages[0]
