"""Readers: from the bytes of one file to the records in it. One small function a format.

A reader yields texts (``Record`` where the file says more about them), or ``Broken`` for a record it cannot read; it
never raises on bad content. None holds more than one record or row batch in memory.
"""

import ast
import bz2
import gzip
import io
import json
import lzma
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, BinaryIO

from components.data.records import Broken, Record, Records
from components.data.sources import BaseSource

FRONT_MATTER = re.compile(r"\A(---|\+\+\+)\n.*?\n\1[ \t]*\n", re.S)
HTML_COMMENT = re.compile(r"<!--.*?-->\n?", re.S)
MIN_DOCSTRING = 200
"""Characters; shorter docstrings are one-line summaries that say little away from their code."""


Texts = Iterator[str | Record | Broken]


def read_records(stream: BinaryIO, name: str, source: BaseSource) -> Records:
    """Texts of one file of ``source``, decompressed by its suffix, with ``first_rows`` and ``extract`` applied."""
    reader = READERS[source.format]
    try:
        found = reader(decompressed(stream, name), source)
        pattern = re.compile(source.extract) if source.extract else None
        for item in found:
            record = Record(item) if isinstance(item, str) else item
            if pattern is None or isinstance(record, Broken):
                yield record
            elif match := pattern.search(record.text):
                yield replace(record, text=match.group(1))
    except unreadable() as error:
        yield Broken(0, f"{type(error).__name__}: {error}")


def decompressed(stream: BinaryIO, name: str) -> BinaryIO:
    """The stream behind ``.gz``, ``.bz2``, ``.xz`` or ``.zst``; any other as it is. Files may hold several frames."""
    if name.endswith(".gz"):
        return gzip.GzipFile(fileobj=stream)  # type: ignore[return-value]
    if name.endswith(".bz2"):
        return bz2.BZ2File(stream)  # type: ignore[return-value]
    if name.endswith(".xz"):
        return lzma.LZMAFile(stream)  # type: ignore[return-value]
    if name.endswith(".zst"):
        import zstandard

        return zstandard.ZstdDecompressor().stream_reader(stream, read_across_frames=True)  # type: ignore[return-value]
    return stream


def unreadable() -> tuple[type[Exception], ...]:
    """What bad content raises: in reading, decompressing, decoding and parsing it."""
    import zstandard

    compressed = (OSError, EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError)
    return (*compressed, ValueError, SyntaxError, RecursionError)


def read_jsonl(stream: BinaryIO, source: BaseSource) -> Texts:
    """One JSON object a line; blank lines are skipped, broken ones reported by number."""
    end = 0
    for number, line in enumerate(io.BufferedReader(stream, 1 << 20), start=1):  # type: ignore[type-var]
        start, end = end, end + len(line)
        if source.first_rows and number > source.first_rows:
            return
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield Broken(number, f"not JSON: {error}", start)
            continue
        yield from texts_of(row, number, source, start)


def read_parquet(stream: BinaryIO, source: BaseSource) -> Texts:
    """Rows of a Parquet file, one batch in memory at a time, and only the columns that are asked for."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    with seekable(stream) as file:
        try:
            parquet = pq.ParquetFile(file)
        except pa.ArrowInvalid as error:
            yield Broken(0, f"not Parquet: {error}")
            return
        wanted = {path.partition(".")[0] for path in (*source.text, *source.where)}
        columns = [name for name in parquet.schema_arrow.names if name in wanted]
        if not columns:
            there = ", ".join(parquet.schema_arrow.names)
            yield Broken(0, f"has no column {' or '.join(sorted(wanted))}: the source's text may name one of {there}")
            return
        rows = (row for batch in parquet.iter_batches(batch_size=1024, columns=columns) for row in batch.to_pylist())
        for row in rows:
            number += 1
            if source.first_rows and number > source.first_rows:
                return
            yield from texts_of(row, number, source)


@contextmanager
def seekable(stream: BinaryIO) -> Iterator[BinaryIO]:
    """The stream itself where it can jump at no cost, else a copy of it on disk."""
    if stream.seekable() and not isinstance(stream, zipfile.ZipExtFile | gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile):
        yield stream
        return
    with tempfile.TemporaryFile() as copy:
        shutil.copyfileobj(stream, copy, 1 << 20)
        yield copy  # type: ignore[misc]


def texts_of(row: Any, number: int, source: BaseSource, offset: int = 0) -> Texts:
    """The texts of one record: its fields named by ``text``, if ``where`` holds."""
    if any(str(lookup(row, path)) != value for path, value in source.where.items()):
        return
    for path in source.text:
        text = lookup(row, path)
        if isinstance(text, str):
            yield text
        else:
            yield Broken(number, f"field {path} holds {type(text).__name__}, expected text", offset)


def lookup(value: Any, path: str) -> Any:
    """``lookup({"a": [{"b": 1}]}, "a.-1.b") == 1``; None where a step does not exist."""
    for step in path.split("."):
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and re.fullmatch(r"-?\d+", step) and -len(value) <= int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value


def read_text(stream: BinaryIO, source: BaseSource) -> Texts:
    """The whole file as one text, or with ``join_lines`` each line on its own (to be joined by the caller)."""
    text = stream.read().decode("utf-8")
    if source.join_lines > 1 or source.first_rows:
        yield from text.splitlines()[: source.first_rows]
    else:
        yield text


def read_docstrings(stream: BinaryIO, source: BaseSource) -> Texts:
    """The longer docstrings of a module, in order: prose with examples, written by the library's authors."""
    pending: list[ast.AST] = [ast.parse(stream.read().decode("utf-8"))]
    while pending:  # definitions only: walking every expression would take three times as long
        node = pending.pop()
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node)
            if docstring and len(docstring) >= MIN_DOCSTRING:
                yield docstring
            pending.extend(reversed(node.body))


def read_pydoc(stream: BinaryIO, source: BaseSource) -> Texts:
    """``pydoc_data/topics.py``: the language reference as a literal dictionary of chapters."""
    for node in ast.walk(ast.parse(stream.read().decode("utf-8"))):
        if isinstance(node, ast.Dict):
            chapters = ast.literal_eval(node)
            yield from (text for _, text in sorted(chapters.items()))
            return
    yield Broken(0, "holds no dictionary of topics")


def read_mediawiki(stream: BinaryIO, source: BaseSource) -> Texts:
    """Articles of a MediaWiki XML dump as plain text, title first; redirects are skipped."""
    from components.data.mediawiki import articles

    yield from articles(stream)


def read_markdown(stream: BinaryIO, source: BaseSource) -> Texts:
    """The whole file, without front matter (``---`` YAML or ``+++`` TOML at the top) and HTML comments."""
    text = stream.read().decode("utf-8-sig").replace("\r\n", "\n")
    yield HTML_COMMENT.sub("", FRONT_MATTER.sub("", text))


def read_pages(stream: BinaryIO, source: BaseSource) -> Texts:
    """HTML, one page a file."""
    from components.data.web import read_html

    return read_html(stream)


def read_archive(stream: BinaryIO, source: BaseSource) -> Texts:
    """WARC, one page a record."""
    from components.data.web import read_warc

    return read_warc(stream)


READERS: dict[str, Callable[[BinaryIO, BaseSource], Texts]] = {
    "jsonl": read_jsonl, "parquet": read_parquet, "text": read_text, "markdown": read_markdown,
    "html": read_pages, "warc": read_archive,
    "docstrings": read_docstrings, "pydoc": read_pydoc, "mediawiki": read_mediawiki,
}  # fmt: skip
