"""Ingest of repositories, web pages, archives and buckets, and how broken input is told from good."""

import gzip
import io
import json
import lzma

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from support import make_run

from components.data.code_layout import FillInTheMiddle, encode_documents
from components.data.documents import new_document, read_documents
from components.data.ingest import IngestConfig, ingest
from components.data.repositories import programming_language
from components.stage import StageError
from model.tokenizer import Tokenizer

SENTENCES = (
    "Stone is a hard material that was used for building by many people for many hundreds of years.",
    "Walls and bridges were made of it wherever it was at hand, and many of them still stand today.",
)
PAGE = f"""<html><head><title>Stone</title></head><body><nav><a href="/">Home</a> <a href="/shop">Shop</a></nav>
<article><h1>Stone</h1><p>{SENTENCES[0]}</p><p>{SENTENCES[1]}</p></article>
<footer>Accept our cookies</footer></body></html>""".encode()


def read(tmp_path, **source):
    run = make_run(tmp_path / "run")
    source = {"kind": "path", "name": "mine", "licence": "CC0-1.0", **source}
    summary = ingest(IngestConfig(corpus="", sources=[source]), {}, run)
    rows = [json.loads(line) for line in (run.output / "quarantine.jsonl").read_text().splitlines()]
    return list(read_documents(run.output)), rows, summary


def jsonl(*texts):
    return b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)


def warc(*pages, status="200 OK", content_type="text/html"):
    """An uncompressed archive of responses."""
    from warcio.statusandheaders import StatusAndHeaders
    from warcio.warcwriter import WARCWriter

    out = io.BytesIO()
    writer = WARCWriter(out, gzip=False)
    for number, page in enumerate(pages):
        headers = StatusAndHeaders(status, [("Content-Type", content_type)], protocol="HTTP/1.0")
        writer.write_record(
            writer.create_warc_record(
                f"http://example.org/{number}", "response", payload=io.BytesIO(page), http_headers=headers
            )
        )
    return out.getvalue()


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["def add(a, b):\n    return a + b\n" * 5, SENTENCES[0]], 400)


# ---- compression --------------------------------------------------------------------------------------------------


def test_xz_and_files_of_several_frames_are_read_to_the_end(tmp_path):
    zst = zstandard.ZstdCompressor()
    (tmp_path / "a.jsonl.xz").write_bytes(lzma.compress(jsonl("one")))
    (tmp_path / "b.jsonl.zst").write_bytes(zst.compress(jsonl("two")) + zst.compress(jsonl("three")))
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(jsonl("four")) + gzip.compress(jsonl("five")))
    documents, _, _ = read(tmp_path, path=str(tmp_path), members=["*.jsonl.*"], format="jsonl")
    assert [d.text for d in documents] == ["one", "two", "three", "four", "five"]


@pytest.mark.parametrize(
    ("suffix", "damaged"),
    [
        (".gz", gzip.compress(jsonl(*map(str, range(900))))[:-900]),
        (".zst", b"no frame"),
        (".xz", b"no frame"),
        (".gz", b"\x1f\x8b\x08\x00" + b"\xff" * 40),
    ],
)
def test_a_damaged_file_is_quarantined_and_the_others_are_read(tmp_path, suffix, damaged):
    (tmp_path / f"a.jsonl{suffix}").write_bytes(damaged)
    (tmp_path / "b.jsonl").write_bytes(jsonl(*(f"number {i}" for i in range(40))))
    documents, rows, _ = read(tmp_path, path=str(tmp_path), members=["*.jsonl*"], format="jsonl")
    assert sum(d.text.startswith("number") for d in documents) == 40
    assert [row["file"] for row in rows] == [f"a.jsonl{suffix}"]


def test_a_compressed_parquet_file_is_read_and_only_its_columns(tmp_path):
    pq.write_table(pa.table({"text": ["x", "y"], "other": [1, 2]}), tmp_path / "t.parquet")
    (tmp_path / "t.parquet.gz").write_bytes(gzip.compress((tmp_path / "t.parquet").read_bytes()))
    documents, _, _ = read(tmp_path, path=str(tmp_path / "t.parquet.gz"), format="parquet")
    assert [d.text for d in documents] == ["x", "y"]
    with pytest.raises(StageError, match="has no column body"):
        read(tmp_path / "2", path=str(tmp_path / "t.parquet"), format="parquet", text=["body"])


# ---- broken records -----------------------------------------------------------------------------------------------


def test_the_quarantine_says_at_which_byte_a_broken_record_starts(tmp_path):
    good = jsonl(*(f"text {i}" for i in range(30)))
    (tmp_path / "a.jsonl").write_bytes(good + b"{broken\n" + good)
    documents, rows, _ = read(tmp_path, path=str(tmp_path / "a.jsonl"), format="jsonl")
    assert len(documents) == 60
    assert rows == [
        {"source": "mine", "file": "a.jsonl", "line": 31, "offset": len(good), "reason": rows[0]["reason"]},
    ]


def test_a_source_that_is_mostly_broken_stops_before_its_end(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"{broken\n" * 5_000 + jsonl("good"))
    with pytest.raises(StageError, match=r"1000 of 1000 records are broken"):
        read(tmp_path, path=str(tmp_path / "a.jsonl"), format="jsonl")


# ---- markdown, HTML, WARC -----------------------------------------------------------------------------------------


def test_a_folder_of_markdown_is_read_without_front_matter_and_other_files(tmp_path):
    (tmp_path / "a.md").write_text("---\ntitle: A\n---\n# A\n<!-- draft -->\nText.\n")
    (tmp_path / "b.markdown").write_text("# B\n\n---\n\nrule above\n")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\xff")
    documents, rows, _ = read(tmp_path, path=str(tmp_path), format="markdown")
    assert [d.text for d in documents] == ["# A\nText.\n", "# B\n\n---\n\nrule above\n"]
    assert rows == []


def test_the_main_text_of_a_page_is_taken_and_its_furniture_left(tmp_path):
    (tmp_path / "a.html").write_bytes(PAGE)
    (tmp_path / "b.html.gz").write_bytes(gzip.compress(PAGE.replace(b"Stone is", b"Marble is")))
    (tmp_path / "c.html").write_bytes(b"<html><body></body></html>")
    documents, _, _ = read(tmp_path, path=str(tmp_path), format="html")
    assert len(documents) == 2
    assert all(sentence in documents[0].text for sentence in SENTENCES)
    assert "Home" not in documents[0].text and "cookies" not in documents[0].text


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_pages_of_an_archive_keep_their_address(tmp_path, compress):
    name = "a.warc.gz" if compress is gzip.compress else "a.warc"
    (tmp_path / name).write_bytes(
        compress(warc(PAGE, PAGE) + warc(PAGE, status="404 Not Found") + warc(b"x", content_type="image/png"))
    )
    documents, rows, _ = read(tmp_path, path=str(tmp_path / name), format="warc")
    assert [d.meta["url"] for d in documents] == ["http://example.org/0", "http://example.org/1"]
    assert rows == []


def test_what_stands_before_the_damage_of_an_archive_is_kept(tmp_path):
    (tmp_path / "a.warc").write_bytes(warc(*[PAGE] * 30) + b"garbage that is no record\r\n" * 9)
    documents, rows, _ = read(tmp_path, path=str(tmp_path / "a.warc"), format="warc")
    assert len(documents) == 30
    assert rows[0]["reason"].startswith("damaged archive")
    assert rows[0]["offset"] > 0


# ---- repositories -------------------------------------------------------------------------------------------------


@pytest.fixture
def checkouts(tmp_path):
    files = {
        "one/src/add.py": "def add(a, b):\n    return a + b\n", "one/README.md": "# One\n", "one/logo.png": "x",
        "two/main.c": "int main(void) { return 0; }\n", "two/.git/config": "[core]\n", "two/data.bin": "\0",
        "two/forged.py": "MARK = '<|file_sep|>'\n",
    }  # fmt: skip
    for name, content in files.items():
        path = tmp_path / "checkouts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return {"kind": "repository", "path": str(tmp_path / "checkouts")}


def test_the_files_of_a_repository_become_one_document(tmp_path, checkouts):
    config = IngestConfig(
        corpus="", max_broken_share=0.5, sources=[{"name": "mine", "licence": "MIT", **checkouts}],
    )  # fmt: skip
    run = make_run(tmp_path / "run")
    summary = ingest(config, {}, run)
    one, two = read_documents(run.output)
    assert one.text == (
        "<|repo_name|>one\n<|file_sep|>README.md\n# One\n<|file_sep|>src/add.py\ndef add(a, b):\n    return a + b\n"
    )
    assert (one.language, one.meta["programming_language"], one.meta["files"]) == ("code", "python", "2")
    assert two.meta["programming_language"] == "c"
    assert "MARK" not in two.text
    assert summary["by_reason"] == {"holds a control token": 1}


def test_a_large_repository_becomes_several_documents_of_whole_files(tmp_path):
    for name in "abcd":
        (tmp_path / "r" / f"{name}.py").parent.mkdir(exist_ok=True)
        (tmp_path / "r" / f"{name}.py").write_text(f"{name} = {'1' * 50}\n")
    documents, _, _ = read(
        tmp_path, kind="repository", path=str(tmp_path / "r"), depth=0, document_bytes=160, members=["*.py"]
    )
    assert [d.meta["files"] for d in documents] == ["2", "2"]
    assert all(d.text.startswith("<|repo_name|>mine\n<|file_sep|>") for d in documents)


@pytest.mark.parametrize(
    ("name", "language"), [("a/b.rs", "rust"), ("Makefile", "makefile"), ("x.tsx", "tsx"), ("photo.jpeg", None)]
)
def test_a_files_name_implies_its_language(name, language):
    assert programming_language(name) == language


def test_marks_become_control_tokens_in_repositories_only(tokenizer):
    text = "<|repo_name|>r\n<|file_sep|>a.py\nx = 1\n"
    repository = new_document(text, source="s", language="code", meta={"form": "repository"})
    forged = new_document(text, source="s", language="code")
    real, false = encode_documents([repository, forged], tokenizer)
    control = {tokenizer.control["<|repo_name|>"], tokenizer.control["<|file_sep|>"]}
    assert control <= set(real)
    assert not control & set(false)
    assert tokenizer.decode(real, skip_control=False) == tokenizer.decode(false) == text


def test_the_middle_of_a_repository_is_cut_from_its_last_file(tokenizer):
    text = "<|repo_name|>r\n<|file_sep|>a.py\nfirst = 1\n<|file_sep|>b.py\ndef add(a, b):\n    return a + b\n"
    document = new_document(text, source="s", language="code", meta={"form": "repository"})
    ids = np.array([*encode_documents([document], tokenizer)[0], tokenizer.eos_id])
    for seed in range(20):
        cut = tokenizer.decode(FillInTheMiddle(tokenizer, 1.0, seed)(ids).tolist(), skip_control=False)
        head, rest = cut.split("<|fim_prefix|>")
        assert head == text[: text.index("def add")]
        before, rest = rest.split("<|fim_suffix|>")
        after, within = rest.removesuffix("<|endoftext|>").split("<|fim_middle|>")
        assert head + before + within + after == text


# ---- buckets ------------------------------------------------------------------------------------------------------


@pytest.fixture
def bucket(monkeypatch):
    import boto3
    from moto.server import ThreadedMotoServer

    from components.data import locations

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    locations.client.cache_clear()
    s3 = boto3.Session().client("s3")
    s3.create_bucket(Bucket="corpus")
    yield s3
    server.stop()
    locations.client.cache_clear()


def test_a_prefix_is_read_like_a_folder(tmp_path, bucket):
    parquet = io.BytesIO()
    pq.write_table(pa.table({"text": [f"row {i}" for i in range(3_000)]}), parquet, row_group_size=500)
    for key, body in {
        "web/a.jsonl.gz": gzip.compress(jsonl("one", "two")), "web/.hidden": b"x", "webs/other.jsonl": jsonl("no"),
        "tables/t.parquet": parquet.getvalue(),
    }.items():  # fmt: skip
        bucket.put_object(Bucket="corpus", Key=key, Body=body)
    documents, _, _ = read(tmp_path, path="s3://corpus/web", format="jsonl")
    assert [d.text for d in documents] == ["one", "two"]
    documents, _, _ = read(tmp_path / "2", path="s3://corpus/tables/", format="parquet")
    assert [d.text for d in documents] == [f"row {i}" for i in range(3_000)]


def test_a_changed_object_changes_the_config_and_a_missing_one_is_named(bucket):
    def config():
        return IngestConfig(corpus="", sources=[
            {"kind": "path", "name": "mine", "licence": "MIT", "format": "jsonl", "path": "s3://corpus/a.jsonl"}
        ])  # fmt: skip

    with pytest.raises(ValueError, match="no object under s3://corpus/a"):
        config()
    bucket.put_object(Bucket="corpus", Key="a.jsonl", Body=jsonl("one"))
    before = config()
    bucket.put_object(Bucket="corpus", Key="a.jsonl", Body=jsonl("two"))
    assert config() != before


def test_a_broken_connection_goes_on_where_it_stopped(bucket, monkeypatch):
    from components.data import locations

    bucket.put_object(Bucket="corpus", Key="a", Body=bytes(range(256)) * 20)
    stream = locations.ObjectStream("corpus", "a", 5_120)
    first = stream.read(1_000)

    class Broken:
        def read(self, size):
            raise OSError("connection reset")

    stream.body = Broken()
    assert first + stream.read() == bytes(range(256)) * 20
