"""Deduplication: exact and near copies, the choice of the best, signatures against exact similarity."""

import random

import numpy as np
import pytest
from support import make_artifact, make_run

from components.data.dedup_probe import edited, jaccard
from components.data.deduplicate import DeduplicateConfig, best_of_clusters, connected, deduplicate, half_similarity
from components.data.documents import new_document, read_documents, write_documents
from components.data.minhash import (
    WordHasher,
    candidate_pairs,
    estimated_similarity,
    shingle_hashes,
    signatures,
)
from components.data.words import comparable_words

VOCABULARY = [f"w{i}" for i in range(2_000)]


def passage(seed, length=120):
    return random.Random(seed).choices(VOCABULARY, k=length)


def sign(texts, permutations=512):
    hasher = WordHasher()
    return signatures([shingle_hashes(hasher(words), 3) for words in texts], permutations)


def test_words_ignore_case_punctuation_and_width_and_split_chinese():
    assert comparable_words("The U.S. ＡＢＣ，是的！") == ["the", "u", "s", "abc", "是", "的"]


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3])
def test_signatures_estimate_jaccard_similarity(share):
    original = passage(1, 400)
    copy = edited(original, share, random.Random(2))
    signature = sign([original, copy], 2_048)
    estimate = estimated_similarity(signature, np.array([[0, 1]]))[0]
    assert estimate == pytest.approx(jaccard(original, copy, 3), abs=4 * 0.5 / np.sqrt(2_048))


def test_signatures_are_the_same_on_every_machine():
    assert sign([["to", "be", "or", "not"]], 4).tolist() == [[2070729886, 1174809788, 2464239276, 2364967613]]


def test_a_document_has_the_same_signature_beside_any_others():
    hasher = WordHasher()
    lengths = [5, 70_000, 1, 30_000, 30_000, 0, 3]  # some together, some with more shingles than are hashed at once
    shingles = [shingle_hashes(hasher(passage(i, length)), 3) for i, length in enumerate(lengths)]
    together = signatures(shingles, 8)
    assert together.shape == (len(lengths), 8)
    for shingle, row in zip(shingles, together, strict=True):
        assert signatures([shingle], 8)[0].tolist() == row.tolist()


def test_half_of_the_pairs_become_candidates_at_the_stated_similarity():
    similarity = half_similarity(25, 5)
    assert 1 - (1 - similarity**5) ** 25 == pytest.approx(0.5)


def test_copies_are_candidates_and_strangers_are_not():
    texts = [passage(i) for i in range(60)] + [edited(passage(i), 0.05, random.Random(i)) for i in range(20)]
    pairs = {tuple(pair) for pair in candidate_pairs(sign(texts, 125), 25).tolist()}
    assert {(i, 60 + i) for i in range(20)} <= pairs
    assert len(pairs) < 25


def test_clusters_are_connected_components():
    cluster = connected(5, np.array([[0, 1], [1, 4]]))
    assert cluster[0] == cluster[1] == cluster[4]
    assert len(set(cluster.tolist())) == 3


def test_the_longest_is_kept_and_the_earlier_of_nearly_equals():
    cluster = np.array([0, 0, 1, 1, 2])
    lengths = np.array([95, 100, 50, 100, 7])
    assert best_of_clusters(cluster, lengths, 0.1).tolist() == [True, False, False, True, True]


@pytest.fixture
def corpus(tmp_path):
    texts = [" ".join(passage(i)) for i in range(80)]
    near = [" ".join(edited(passage(i), 0.05, random.Random(i))) for i in range(10)]
    exact = [text.upper() + "!" for text in texts[20:25]]
    documents = [new_document(text, source="s", language="en") for text in texts + near + exact]
    write_documents(tmp_path / "corpus", documents, per_file=30)
    return make_artifact("corpus", tmp_path / "corpus")


def test_the_stage_keeps_one_of_each_and_measures_itself(tmp_path, corpus):
    run = make_run(tmp_path / "run")
    summary = deduplicate(DeduplicateConfig(probes=30), {"documents": corpus}, run)
    originals = [document.id for document in read_documents(corpus)][:80]
    assert [document.id for document in read_documents(run.output)] == originals
    assert summary["by_reason"] == {"exact duplicate": 5, "near duplicate": 10}
    recall, wrong = summary["effects"]
    assert recall["value"] > 0.95 > recall["baseline"]
    assert wrong["value"] == 0.0


def test_the_result_is_the_same_after_a_kill(tmp_path, corpus):
    runs = [make_run(tmp_path / name) for name in ("whole", "cut")]
    config = DeduplicateConfig(probes=10)
    summaries = [deduplicate(config, {"documents": corpus}, run) for run in runs]
    for file in runs[1].output.iterdir():
        file.unlink()
    sorted(runs[1].state.iterdir())[-1].unlink()
    summaries.append(deduplicate(config, {"documents": corpus}, runs[1]))
    assert summaries[0] == summaries[1] == summaries[2]
    for file in runs[0].output.iterdir():
        assert (runs[1].output / file.name).read_bytes() == file.read_bytes()


def test_bands_that_cannot_see_the_limit_are_refused():
    with pytest.raises(ValueError, match="more bands or fewer rows"):
        DeduplicateConfig(bands=2, rows=20)
