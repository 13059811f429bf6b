"""Packing by relation: the guarantees of packing by fit, and neighbours that have to do with one another."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.data.packing import cut_shares, pack_documents
from components.data.related import pack_related, piece_vectors, relatedness
from components.data.shard_reader import TokenFile

VOCABULARY = 64


def token_file(folder, documents):
    tokens = np.concatenate([np.asarray(d, np.uint16) for d in documents])
    tokens.tofile(folder / "train.bin")
    np.save(folder / "train.offsets.npy", np.cumsum([0, *map(len, documents)]).astype(np.int64))
    return TokenFile(folder / "train", "uint16")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.integers(2, 12), st.integers(0, 3))
def test_every_label_once_no_window_overflows_and_no_fitting_document_is_cut(tmp_path_factory, sizes, length, seed):
    rng = np.random.default_rng(seed)
    file = token_file(tmp_path_factory.mktemp("file"), [rng.integers(0, VOCABULARY, size) for size in sizes])
    windows = pack_related(file, length, VOCABULARY)
    labels = [
        p for start, size in zip(windows.starts, windows.sizes, strict=True) for p in range(start + 1, start + size)
    ]
    firsts = set(file.offsets[:-1].tolist())
    assert sorted(labels) == [place for place in range(int(file.offsets[-1])) if place not in firsts]
    filled = np.add.reduceat(windows.sizes, windows.first_piece[:-1])
    assert filled.min() > 0 and filled.max() <= length + 1
    assert cut_shares(file.offsets, windows)[0] == 0.0


@pytest.fixture
def topics(tmp_path):
    """Documents of eight topics with words of their own, in random order, all of about a quarter of a window."""
    rng = np.random.default_rng(0)
    subjects = rng.permutation(np.repeat(np.arange(8), 20))
    documents = [
        np.where(rng.random(size) < 0.7, 8 * subject + rng.integers(0, 8, size), rng.integers(0, VOCABULARY, size))
        for subject, size in zip(subjects, rng.integers(20, 30, len(subjects)), strict=True)
    ]
    return token_file(tmp_path, documents), subjects


def test_windows_hold_one_topic_and_hardly_more_padding(topics):
    file, subjects = topics
    by_fit, by_relation = pack_documents(file.offsets, 100), pack_related(file, 100, VOCABULARY)

    def of_one_topic(windows):
        shares = []
        for window in range(len(windows)):
            documents = file.documents_in(windows, np.array([window]))
            shares.append(np.bincount(subjects[documents]).max() / len(documents))
        return np.mean(shares)

    assert of_one_topic(by_relation) > 0.85 > 0.6 > of_one_topic(by_fit)
    assert relatedness(by_relation, file, VOCABULARY) > 2 * relatedness(by_fit, file, VOCABULARY)
    assert by_relation.padding_share < by_fit.padding_share + 0.1
    again = pack_related(file, 100, VOCABULARY)
    assert all(np.array_equal(getattr(again, name), getattr(by_relation, name)) for name in ("starts", "sizes"))


def test_vectors_are_unit_tf_idf(topics):
    file, _ = topics
    sizes = np.diff(file.offsets)
    vectors = piece_vectors(file, file.offsets[:-1], sizes, VOCABULARY).toarray()
    counts = np.stack([np.bincount(document, minlength=VOCABULARY) for document in file.documents()])
    idf = np.log((1 + len(counts)) / (1 + (counts > 0).sum(axis=0))) + 1
    expected = np.where(counts > 0, 1 + np.log(np.maximum(counts, 1)), 0) * idf
    np.testing.assert_allclose(vectors, expected / np.linalg.norm(expected, axis=1, keepdims=True), rtol=1e-5)


def test_a_window_with_a_single_document_has_no_neighbours(tmp_path):
    file = token_file(tmp_path, [[1, 2, 3]])
    assert relatedness(pack_related(file, 8, VOCABULARY), file, VOCABULARY) == 0.0
