"""Two mixtures beside each other, against counts made by hand."""

import json

import pytest

from components.data.documents import Document, write_documents
from components.data.mixture_diff import difference


def write(folder, rows, before=None):
    write_documents(folder, (Document(i, text, "s", "en", domain, copies=c) for i, text, domain, c in rows))
    if before:
        (folder / "mixture.json").write_text(json.dumps({"before": before}))
    return folder


def test_shares_factors_and_documents_by_domain(tmp_path):
    first = write(
        tmp_path / "a",
        [("1", "x" * 10, "news", 1), ("2", "y" * 10, "news", 1), ("3", "z" * 20, "science", 1)],
        {"news": 0.8, "science": 0.2},
    )
    second = write(
        tmp_path / "b",
        [("2", "y" * 10, "news", 1), ("3", "z" * 20, "science", 2), ("4", "w" * 50, "law", 1)],
        {"news": 0.5, "science": 0.25, "law": 0.25},
    )
    found = difference(first, second)
    assert found["documents"] == [3, 3]
    assert found["bytes"] == [40, 100]
    assert (found["in"], found["out"], found["recounted"], found["moved"]) == (1, 1, 1, 0)
    assert list(found["domains"]) == ["law", "science", "news"]
    law, science, news = found["domains"].values()
    assert law["share"] == [0.0, 0.5]
    assert law["factor"] == [None, 2.0]
    assert law["in"] == {"documents": 1, "bytes": 50}
    assert science["share"] == pytest.approx([0.5, 0.4])
    assert science["factor"] == pytest.approx([2.5, 1.6])
    assert science["copies"] == [1.0, 2.0]
    assert science["recounted"] == 1
    assert news["documents"] == [2, 1]
    assert news["out"] == {"documents": 1, "bytes": 10}
    assert found["total_variation"] == pytest.approx(0.5)


def test_a_document_that_changed_its_domain_is_neither_in_nor_out(tmp_path):
    first = write(tmp_path / "a", [("1", "x", "news", 1)])
    second = write(tmp_path / "b", [("1", "x", "law", 1)])
    found = difference(first, second)
    assert (found["in"], found["out"], found["moved"]) == (0, 0, 1)
    assert found["domains"]["law"]["moved"] == 1
    assert found["domains"]["law"]["factor"] == [None, None]


def test_equal_mixtures_do_not_differ(tmp_path):
    first = write(tmp_path / "a", [("1", "x", "news", 3)])
    found = difference(first, first)
    assert (found["in"], found["out"], found["recounted"], found["moved"], found["total_variation"]) == (0, 0, 0, 0, 0)
