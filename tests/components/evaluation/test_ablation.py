"""Two mixtures, one model: what is held out stays out, tokens are equal, and good text beats noise."""

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from support import make_artifact, make_run

from components.data.ablation_arms import LOST, Corpora, hold_out
from components.data.clean import CleanConfig
from components.data.deduplicate import DeduplicateConfig
from components.data.documents import Document, new_document, read_documents, write_documents
from components.data.mixture import MixtureConfig
from components.data.tokenizer import TokenizerConfig, train_tokenizer
from components.evaluation.ablation import ALL, AblationConfig, Side, ablate
from components.scaling.sweep import SweepShape
from components.stage import StageError

SHAPE = SweepShape(
    hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1
)
CONFIG = AblationConfig(
    shape=SHAPE, tokens=24_000, sequence_length=32, batch_tokens=256, seeds=2, tokens_per_domain=2_000,
    document_tokens=64,
)  # fmt: skip
MIXTURE = MixtureConfig(factors={"science": 2.0}, shares={}, quality_preference=0.0)
SIDES = (Side("raw"), Side("rebalanced"))


def sentences(rng: random.Random, nouns: list[str], count: int) -> str:
    verbs = ["sees", "crosses", "follows", "leaves", "measures", "finds"]
    return " ".join(f"The {rng.choice(nouns)} {rng.choice(verbs)} the {rng.choice(nouns)}." for _ in range(count))


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Corpora:
    """Half noise: the filters have let the sentences pass and nothing else."""
    rng, folder = random.Random(0), tmp_path_factory.mktemp("corpora")
    words = {
        "science": ["proton", "planet", "enzyme", "crystal", "neuron", "glacier", "comet", "lens", "magnet", "fossil"],
        "fiction": ["miller", "river", "bridge", "farmer", "horse", "road", "king", "door", "candle", "ship"],
    }
    good, noise = [], []
    for number in range(500):
        domain = "science" if number % 3 == 0 else "fiction"
        text = f"Number {number}. {sentences(rng, words[domain], 8)}"
        good.append(new_document(text, source="good", language="en", domain=domain, quality={"overall": 0.9}))
        letters = " ".join("".join(rng.choices("qxzjkvw", k=rng.randrange(3, 8))) for _ in range(40))
        noise.append(new_document(f"{number} {letters}", source="noise", language="en"))
    copies = [new_document(d.text.replace("Number", "Item"), source="copies", language="en") for d in good]
    junk = [new_document("junk " * 30 + str(n), source="junk", language="en", meta={"label": "junk"}) for n in range(9)]
    write_documents(folder / "ingested", [*good, *noise, *copies, *junk])
    write_documents(folder / "filtered", good)
    return Corpora(folder / "ingested", folder / "filtered", CleanConfig(), DeduplicateConfig(), 0.1)


@pytest.fixture(scope="module")
def tokenizer(corpora: Corpora, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = make_run(tmp_path_factory.mktemp("tokenizer"))
    train_tokenizer(TokenizerConfig(vocab_size=380), {"documents": make_artifact("mixture", corpora.filtered)}, run)
    return run.output


@pytest.fixture(scope="module")
def done(corpora: Corpora, tokenizer: Path, tmp_path_factory: pytest.TempPathFactory):
    run = make_run(tmp_path_factory.mktemp("ablation"))
    return run, ablate(CONFIG, MIXTURE, corpora, tokenizer, SIDES, run)


def body(document: Document) -> str:
    """The text without its first word, which is all that the planted copies differ in."""
    return document.text.partition(" ")[2]


def test_neither_side_sees_held_out_text_or_its_near_copies(done) -> None:
    run, _ = done
    held_out = {body(document) for document in read_documents(run.state / "held-out")}
    assert len(held_out) > 20
    for side in ("raw", "rebalanced"):
        assert held_out.isdisjoint(body(document) for document in read_documents(run.state / side))


def test_the_raw_side_is_deduplicated_and_keeps_what_filters_drop(done) -> None:
    run, _ = done
    raw = list(read_documents(run.state / "raw"))
    bodies = [body(document) for document in raw]
    assert len(bodies) == len(set(bodies))
    sources = [document.source for document in raw]
    assert 400 < sources.count("noise") < 500  # a tenth is held out
    assert "junk" not in sources


def test_sides_are_equal_in_tokens_and_the_better_text_wins(done) -> None:
    _, result = done
    first, second = (side["trained_tokens"] for side in result["sides"])
    assert [*first, *second] == pytest.approx([CONFIG.tokens] * 4, rel=0.01)
    rows = {row["domain"]: row for row in result["domains"]}
    assert list(rows) == ["fiction", "science", ALL, LOST]
    for name in ("science", ALL):
        assert rows[name]["high"] < 0
        assert rows[name]["difference"] == pytest.approx(rows[name]["second"] - rows[name]["first"])
    assert rows[LOST]["low"] > 0  # who has never seen noise predicts it worse


def test_a_second_start_trains_nothing_again(done, corpora: Corpora, tokenizer: Path, monkeypatch) -> None:
    run, result = done
    monkeypatch.setattr("components.training.loop.train", lambda *_, **__: pytest.fail("a finished model was trained"))
    assert ablate(CONFIG, MIXTURE, corpora, tokenizer, SIDES, run) == result


def test_a_corpus_of_ones_own_is_compared_without_what_is_held_out(
    done, corpora: Corpora, tokenizer: Path, tmp_path: Path
) -> None:
    run = make_run(tmp_path)
    config = CONFIG.model_copy(update={"tokens": 512})
    result = ablate(config, MIXTURE, corpora, tokenizer, (Side("own", corpora.ingested), SIDES[1]), run)
    held_out = {body(document) for document in read_documents(run.state / "held-out")}
    assert held_out.isdisjoint(body(document) for document in read_documents(run.state / "own"))
    assert result["sides"][0]["documents"] > result["sides"][1]["documents"]


def test_more_is_held_out_of_a_small_domain_but_a_fifth_at_most(corpora: Corpora, tmp_path: Path) -> None:
    def held_out(wanted: int) -> Counter[str]:
        folder = hold_out(replace(corpora, held_out_documents=wanted), tmp_path / str(wanted))
        return Counter(document.domain for document in read_documents(folder))

    fewest, some, most = held_out(0), held_out(30), held_out(10_000)
    assert fewest["science"] < 25 < some["science"] < 45  # of 167
    assert some["fiction"] == fewest["fiction"]  # a tenth of 333 is enough
    assert 20 <= most["science"] <= 50
    assert 45 <= most["fiction"] <= 90


def test_nothing_held_out_is_said(corpora: Corpora, tokenizer: Path, tmp_path: Path) -> None:
    bare = Corpora(corpora.ingested, corpora.filtered, corpora.clean, corpora.deduplicate, 0.0)
    with pytest.raises(StageError, match="held_out_share"):
        ablate(CONFIG, MIXTURE, bare, tokenizer, SIDES, make_run(tmp_path))
