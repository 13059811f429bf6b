import random
from pathlib import Path

import numpy as np
import pytest

from components.data.documents import is_held_out, new_document, write_documents
from components.data.shard_reader import ShardReader, document_ids
from components.data.shards import ShardsConfig, tokenize
from components.data.tokenizer import TokenizerConfig, train_tokenizer
from components.stage import StageError
from model.tokenizer import Tokenizer
from tests.support import make_artifact, make_run

WORDS = "the river runs past an old mill where people grind corn and talk of rain prices 今天 天气 def return 7 42"
CONFIG = ShardsConfig(held_out_share=0.2, held_out_tokens=400, documents_per_part=37, window_lengths=(32,))


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory):
    rng = random.Random(0)
    documents = []
    for number in range(200):
        text = " ".join(rng.choice(WORDS.split()) for _ in range(rng.randrange(5, 60))) + f" {number}"
        domain = ("news", "code")[number % 2]
        document = new_document(text, source="test", language="code" if domain == "code" else "en", domain=domain)
        document.copies = 1 + number % 3
        documents.append(document)
    folder = tmp_path_factory.mktemp("mixture")
    write_documents(folder, documents)
    return make_artifact("mixture", folder), documents


@pytest.fixture(scope="module")
def tokenizer(mixture, tmp_path_factory: pytest.TempPathFactory):
    run = make_run(tmp_path_factory.mktemp("tokenizer"))
    summary = train_tokenizer(TokenizerConfig(vocab_size=400), {"documents": mixture[0]}, run)
    return make_artifact("tokenizer", run.output, summary)


@pytest.fixture(scope="module")
def shards(mixture, tokenizer, tmp_path_factory: pytest.TempPathFactory):
    run = make_run(tmp_path_factory.mktemp("shards"), seed=5)
    summary = tokenize(CONFIG, {"documents": mixture[0], "tokenizer": tokenizer}, run)
    return make_artifact("shards", run.output, summary)


def texts(file, tokenizer: Tokenizer) -> list[str]:
    return [tokenizer.decode(ids[:-1].tolist()) for ids in file.documents()]


def test_the_tokenizer_beats_bytes_on_held_out_text(tokenizer) -> None:
    overall = tokenizer.summary["effects"][0]
    assert overall["value"] > 1.5 and overall["low"] > 0


def test_every_document_is_in_training_or_held_out_with_its_copies(mixture, tokenizer, shards) -> None:
    reader = ShardReader(shards)
    decoder = Tokenizer.load(tokenizer.path)
    held_out = {text for file in reader.validation.values() for text in texts(file, decoder)}
    trained = texts(reader.train, decoder)
    whole = [text for text in trained if "<|fim_prefix|>" not in text]
    assert held_out.isdisjoint(whole)
    for document in mixture[1]:
        if document.text in held_out:
            assert is_held_out(document.id, CONFIG.held_out_share)
        elif document.domain != "code":
            assert whole.count(document.text) == document.copies
    assert len(trained) == sum(d.copies for d in mixture[1] if d.text not in held_out)


def test_held_out_tokens_of_a_domain_are_capped(shards) -> None:
    for file in ShardReader(shards).validation.values():
        assert 0 < len(file.tokens) <= CONFIG.held_out_tokens


def test_fill_in_the_middle_keeps_every_token(mixture, tokenizer, shards) -> None:
    reader, decoder = ShardReader(shards), Tokenizer.load(tokenizer.path)
    originals = {document.text for document in mixture[1]}
    rearranged = [text for text in texts(reader.train, decoder) if "<|fim_prefix|>" in text]
    assert len(rearranged) == shards.summary["fill_in_the_middle"] > 0
    for text in rearranged:
        before, rest = text.removeprefix("<|fim_prefix|>").split("<|fim_suffix|>")
        after, within = rest.split("<|fim_middle|>")
        assert before + within + after in originals


def test_batches_are_a_pure_function_of_seed_and_step(shards) -> None:
    one, two = ShardReader(shards), ShardReader(shards)
    first = one.batch(seed=1, step=3, batch_size=4, length=32)
    one.batch(seed=1, step=9, batch_size=4, length=32)
    assert first.shape == (4, 33) and first.dtype == np.int64
    assert np.array_equal(first, two.batch(seed=1, step=3, batch_size=4, length=32))
    assert not np.array_equal(first, one.batch(seed=2, step=3, batch_size=4, length=32))


def test_an_epoch_meets_every_window_once(shards) -> None:
    reader = ShardReader(shards)
    count = len(reader.windows(32))
    rows = np.concatenate([reader.batch(0, step, 1, 32) for step in range(count)])
    everything = reader.train.read(reader.windows(32), np.arange(count), reader.eos_id)
    assert sorted(map(bytes, rows)) == sorted(map(bytes, everything))


def test_validation_batches_hold_every_label_of_the_domain(shards) -> None:
    reader = ShardReader(shards)
    for domain, file in reader.validation.items():
        labels = 0
        for tokens in reader.validation_batches(domain, 32, 8):
            ids = document_ids(tokens, reader.eos_id)
            labels += int(((ids[:, 1:] == ids[:, :-1]) & (ids[:, 1:] >= 0)).sum())
        assert labels == len(file.tokens) - len(file)  # all but each document's first token


def test_document_ids_tell_documents_and_padding_apart() -> None:
    tokens = np.array([[5, 6, 0, 7, 0, 0, 0]])
    assert document_ids(tokens, eos_id=0).tolist() == [[0, 0, 0, 1, 1, -1, -1]]


def test_a_killed_run_ends_with_the_same_bytes(mixture, tokenizer, shards, tmp_path: Path) -> None:
    run = make_run(tmp_path, seed=5)
    inputs = {"documents": mixture[0], "tokenizer": tokenizer}
    tokenize(CONFIG, inputs, run)
    last = sorted(run.state.glob("part-*.parquet"))[-1]
    last.unlink()  # killed before the last part was whole
    resumed = make_run(tmp_path / "again", seed=5)
    resumed.state = run.state
    tokenize(CONFIG, inputs, resumed)
    for file in sorted(shards.path.rglob("*.*")):
        assert file.read_bytes() == (resumed.output / file.relative_to(shards.path)).read_bytes()


def test_an_empty_mixture_is_an_error_that_says_what_to_do(tokenizer, tmp_path: Path) -> None:
    write_documents(tmp_path / "empty", [])
    inputs = {"documents": make_artifact("mixture", tmp_path / "empty"), "tokenizer": tokenizer}
    with pytest.raises(StageError, match="no documents"):
        tokenize(CONFIG, inputs, make_run(tmp_path))
