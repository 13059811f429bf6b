"""The shuffle over signatures on disk finds what a comparison in memory finds, in whatever ranges it works."""

import random
from pathlib import Path

import numpy as np
import pytest

from components.data import near_copies
from components.data.columns import load
from components.data.dedup_probe import edited
from components.data.deduplicate import DeduplicateConfig
from components.data.documents import document_files, new_document, read_documents, write_documents
from components.data.minhash import WordHasher, candidate_pairs, estimated_similarity, shingle_hashes, signatures
from components.data.near_copies import exact_pairs, is_signed, lengths_of, near_pairs, sign_file
from components.data.words import comparable_words

CONFIG = DeduplicateConfig()
VOCABULARY = [f"w{i}" for i in range(2_000)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hundred texts, of forty a near copy, of twenty another copy that differs in case, in a random order."""
    folder, rng = tmp_path_factory.mktemp("corpus"), random.Random(0)
    texts = [rng.choices(VOCABULARY, k=100) for _ in range(100)]
    texts += [edited(words, 0.05, rng) for words in texts[:40]] + [edited(words, 0.18, rng) for words in texts[:40]]
    written = [" ".join(words) for words in texts] + [" ".join(words).upper() for words in texts[:20]]
    rng.shuffle(written)
    write_documents(folder, (new_document(text, source="s", language="en") for text in written), per_file=60)
    return folder


@pytest.fixture(scope="module")
def states(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("states")
    found = []
    for file in document_files(corpus):
        state = folder / file.stem
        assert not is_signed(state)
        sign_file((CONFIG, file, state))
        assert is_signed(state)
        found.append(state)
    assert len(found) == 4
    return found


def in_memory(corpus: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pairs and how many candidates there were, of signatures made here."""
    hasher = WordHasher()
    words = (comparable_words(document.text) for document in read_documents(corpus))
    signature = signatures((shingle_hashes(hasher(each), CONFIG.shingle) for each in words), 125)
    pairs = candidate_pairs(signature, CONFIG.bands)
    return pairs[estimated_similarity(signature, pairs) >= CONFIG.min_similarity], len(pairs)


@pytest.mark.parametrize("at_once", [1 << 18, 30])
def test_near_pairs_are_those_of_a_comparison_in_memory(
    corpus: Path, states: list[Path], at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(near_copies, "KEYS_AT_ONCE", at_once)
    expected, candidates = in_memory(corpus)
    assert 40 <= len(expected) < candidates
    pairs, count = near_pairs(states, CONFIG.min_similarity)
    assert pairs.tolist() == expected.tolist()
    assert count == candidates


@pytest.mark.parametrize("at_once", [1 << 18, 30])
def test_exact_pairs_join_each_copy_to_the_first(
    corpus: Path, states: list[Path], at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(near_copies, "KEYS_AT_ONCE", at_once)
    first: dict[str, int] = {}
    copies = []
    for index, document in enumerate(read_documents(corpus)):
        original = first.setdefault(document.text.lower(), index)
        if original != index:
            copies.append([original, index])
    assert len(copies) == 20
    assert exact_pairs(states).tolist() == sorted(copies)


def test_only_pairs_with_later_documents_are_looked_for_on_request(corpus: Path, states: list[Path]) -> None:
    every, _ = near_pairs(states, CONFIG.min_similarity)
    since = 180
    later, _ = near_pairs(states, CONFIG.min_similarity, since)
    assert len(later) > 5
    assert later[later[:, 1] >= since].tolist() == every[every[:, 1] >= since].tolist()


def test_lengths_are_in_the_order_of_the_corpus(corpus: Path, states: list[Path]) -> None:
    assert lengths_of(states).tolist() == [len(document.text) for document in read_documents(corpus)]
    assert load(states[0], "signatures")[0].shape == (CONFIG.bands, 60, CONFIG.rows)
