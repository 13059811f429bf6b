"""Documents on disk: round trip, equal bytes for equal content, order, held-out split."""

import hashlib
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.data.documents import (
    Document,
    count_documents,
    document_id,
    is_held_out,
    new_document,
    read_documents,
    write_documents,
)
from components.stage import StageError


@pytest.fixture
def documents() -> list[Document]:
    return [
        new_document(f"text {i} 你好", source="s", language="en", quality={"b": 0.5, "a": 1.0}, meta={"label": "junk"})
        for i in range(7)
    ]


def test_documents_survive_the_round_trip_in_order(tmp_path, documents):
    assert write_documents(tmp_path, documents, per_file=3) == 7
    assert [file.name for file in sorted(tmp_path.iterdir())] == [f"documents-{i:05d}.parquet" for i in range(3)]
    assert list(read_documents(tmp_path)) == documents
    assert count_documents(tmp_path) == 7


def test_equal_documents_give_equal_bytes(tmp_path, documents):
    digests = []
    for name in ("a", "b"):
        write_documents(tmp_path / name, documents)
        digests.append(hashlib.sha256((tmp_path / name / "documents-00000.parquet").read_bytes()).hexdigest())
    assert digests[0] == digests[1]


def test_files_that_are_written_in_parts_have_the_bytes_of_a_whole_table(tmp_path, documents, monkeypatch):
    monkeypatch.setattr("components.data.documents.ROW_GROUP", 3)
    write_documents(tmp_path, iter(documents), per_file=5)
    for number, part in enumerate((documents[:5], documents[5:])):
        columns = {
            name: [getattr(document, name) for document in part]
            for name in ("id", "text", "source", "language", "domain", "licence", "quality", "copies", "meta")
        }
        for name in ("quality", "meta"):
            columns[name] = [json.dumps(value, ensure_ascii=False, sort_keys=True) for value in columns[name]]
        table = pa.table({**columns, "copies": pa.array(columns["copies"], pa.int32())})
        pq.write_table(table, tmp_path / "whole.parquet", compression="zstd", row_group_size=3)
        assert (tmp_path / f"documents-{number:05d}.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_an_empty_corpus_can_be_read_and_a_folder_without_corpus_cannot(tmp_path):
    write_documents(tmp_path / "empty", [])
    assert list(read_documents(tmp_path / "empty")) == []
    with pytest.raises(StageError, match="not a corpus"):
        list(read_documents(tmp_path))


def test_the_id_is_a_prefix_of_the_sha256_of_the_text():
    assert document_id("abc") == "ba7816bf8f01cfea"


def test_about_the_asked_share_is_held_out_and_a_larger_share_contains_a_smaller():
    ids = [document_id(str(i)) for i in range(5_000)]
    small, large = ({i for i in ids if is_held_out(i, share)} for share in (0.02, 0.1))
    assert small < large
    assert 0.08 < len(large) / len(ids) < 0.12
