"""Readers: from the bytes of one file to the records in it. One small function a format.

A reader yields ``str`` texts, or ``Broken`` for a record it cannot read; it never raises on bad content.
"""

import ast
import bz2
import gzip
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from components.data.sources import BaseSource

MIN_DOCSTRING = 200
"""Characters; shorter docstrings are one-line summaries that say little away from their code."""


@dataclass(frozen=True)
class Broken:
    """A record that could not be read: line (or row) number from 1, 0 for the file as a whole, and why."""

    line: int
    reason: str


Records = Iterator[str | Broken]


def read_records(stream: BinaryIO, name: str, source: BaseSource) -> Records:
    """Texts of one file of ``source``, decompressed by its suffix, with ``first_rows`` and ``extract`` applied."""
    reader = READERS[source.format]
    try:
        records = reader(decompressed(stream, name), source)
        pattern = re.compile(source.extract) if source.extract else None
        for record in records:
            if pattern is None or isinstance(record, Broken):
                yield record
            elif match := pattern.search(record):
                yield match.group(1)
    except (OSError, EOFError, UnicodeDecodeError, SyntaxError, ValueError) as error:
        yield Broken(0, f"{type(error).__name__}: {error}")


def decompressed(stream: BinaryIO, name: str) -> BinaryIO:
    """The stream behind ``.gz``, ``.bz2`` or ``.zst``; any other as it is."""
    if name.endswith(".gz"):
        return gzip.GzipFile(fileobj=stream)  # type: ignore[return-value]
    if name.endswith(".bz2"):
        return bz2.BZ2File(stream)  # type: ignore[return-value]
    if name.endswith(".zst"):
        import zstandard

        return zstandard.ZstdDecompressor().stream_reader(stream)  # type: ignore[return-value]
    return stream


def read_jsonl(stream: BinaryIO, source: BaseSource) -> Records:
    """One JSON object a line; blank lines are skipped, broken ones reported by number."""
    for number, line in enumerate(io.BufferedReader(stream), start=1):  # type: ignore[type-var]
        if source.first_rows and number > source.first_rows:
            return
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            yield Broken(number, f"not JSON: {error}")
            continue
        yield from texts_of(row, number, source)


def read_parquet(stream: BinaryIO, source: BaseSource) -> Records:
    """Rows of a Parquet file, one batch in memory at a time."""
    import pyarrow.parquet as pq

    number = 0
    for batch in pq.ParquetFile(io.BytesIO(stream.read())).iter_batches(batch_size=1024):
        for row in batch.to_pylist():
            number += 1
            if source.first_rows and number > source.first_rows:
                return
            yield from texts_of(row, number, source)


def texts_of(row: Any, number: int, source: BaseSource) -> Records:
    """The texts of one record: its fields named by ``text``, if ``where`` holds."""
    if any(str(lookup(row, path)) != value for path, value in source.where.items()):
        return
    for path in source.text:
        text = lookup(row, path)
        if isinstance(text, str):
            yield text
        else:
            yield Broken(number, f"field {path} holds {type(text).__name__}, expected text")


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


def read_text(stream: BinaryIO, source: BaseSource) -> Records:
    """The whole file as one text, or with ``join_lines`` each line on its own (to be joined by the caller)."""
    text = stream.read().decode("utf-8")
    if source.join_lines > 1 or source.first_rows:
        yield from text.splitlines()[: source.first_rows]
    else:
        yield text


def read_docstrings(stream: BinaryIO, source: BaseSource) -> Records:
    """The longer docstrings of a module, in order: prose with examples, written by the library's authors."""
    pending: list[ast.AST] = [ast.parse(stream.read().decode("utf-8"))]
    while pending:  # definitions only: walking every expression would take three times as long
        node = pending.pop()
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node)
            if docstring and len(docstring) >= MIN_DOCSTRING:
                yield docstring
            pending.extend(reversed(node.body))


def read_pydoc(stream: BinaryIO, source: BaseSource) -> Records:
    """``pydoc_data/topics.py``: the language reference as a literal dictionary of chapters."""
    for node in ast.walk(ast.parse(stream.read().decode("utf-8"))):
        if isinstance(node, ast.Dict):
            chapters = ast.literal_eval(node)
            yield from (text for _, text in sorted(chapters.items()))
            return
    yield Broken(0, "holds no dictionary of topics")


def read_mediawiki(stream: BinaryIO, source: BaseSource) -> Records:
    """Articles of a MediaWiki XML dump as plain text, title first; redirects are skipped."""
    from components.data.mediawiki import articles

    yield from articles(stream)


READERS: dict[str, Callable[[BinaryIO, BaseSource], Records]] = {
    "jsonl": read_jsonl, "parquet": read_parquet, "text": read_text,
    "docstrings": read_docstrings, "pydoc": read_pydoc, "mediawiki": read_mediawiki,
}  # fmt: skip
