"""The document: the one record that every data stage reads and writes, and how it lies on disk.

A corpus folder holds ``documents-00000.parquet``, ``documents-00001.parquet``, ... Rows keep their order, files
are written with fixed settings and no timestamps, so equal documents give equal bytes and an equal artifact digest.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.stage import Artifact, StageError

if TYPE_CHECKING:
    import pyarrow as pa

PATTERN = "documents-{:05d}.parquet"
FILE_CHARACTERS = 64_000_000
"""Most characters of a file's documents."""
ROW_GROUP = 5_000
"""Documents that are compressed together, and held in memory by whoever writes a file."""
READ_AT_ONCE = 500
"""Documents that are in memory while a file is read."""
_HASH_RANGE = 16**16


@dataclass(slots=True)
class Document:
    """One text with its provenance.

    ``language`` is an ISO 639-1 code or ``code`` for source code; ``quality`` maps a dimension to a score in
    [0, 1]; ``copies`` is how often the mixture repeats the document; ``meta`` holds labels of the source
    (``label`` = ``junk`` for known junk, ``domain_hint`` where the source implies a domain).
    """

    id: str
    text: str
    source: str
    language: str
    domain: str = ""
    licence: str = ""
    quality: dict[str, float] = field(default_factory=dict)
    copies: int = 1
    meta: dict[str, str] = field(default_factory=dict)


def document_id(text: str) -> str:
    """First 16 hexadecimal digits of the SHA-256 of the text's UTF-8 bytes."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def new_document(text: str, *, source: str, language: str, **fields: Any) -> Document:
    """A document whose id is derived from its text."""
    return Document(id=document_id(text), text=text, source=source, language=language, **fields)


def is_held_out(document_id: str, share: float) -> bool:
    """Whether the document belongs to the held-out ``share`` (0..1): a pure function of its id.

    Hashed once more, under a name of its own, so that the choice is independent of other uses of the id's bits.
    """
    digest = hashlib.sha256(f"held-out:{document_id}".encode()).hexdigest()[:16]
    return int(digest, 16) < share * _HASH_RANGE


def document_files(corpus: Artifact | Path) -> list[Path]:
    """The Parquet files of a corpus in order; a folder without any is an error."""
    folder = corpus if isinstance(corpus, Path) else Path(corpus.path)
    files = sorted(folder.glob("documents-*.parquet"))
    if not files:
        raise StageError(f"no documents-*.parquet in {folder}: it is not a corpus, or its stage did not finish")
    return files


def read_documents(corpus: Artifact | Path) -> Iterator[Document]:
    """Every document of a corpus artifact or folder, in stored order, a few in memory at a time."""
    for file in document_files(corpus):
        yield from read_file(file)


def read_file(file: Path) -> Iterator[Document]:
    """The documents of one Parquet file."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as parquet:
        for batch in parquet.iter_batches(batch_size=READ_AT_ONCE):
            columns = batch.to_pydict()
            names = list(columns)
            for row in zip(*columns.values(), strict=True):
                values = dict(zip(names, row, strict=True))
                yield Document(
                    **{**values, "quality": json.loads(values["quality"]), "meta": json.loads(values["meta"])}
                )


def count_documents(corpus: Artifact | Path) -> int:
    """Number of documents, read from the files' footers."""
    import pyarrow.parquet as pq

    return sum(pq.read_metadata(file).num_rows for file in document_files(corpus))


def write_documents(folder: Path, documents: Iterable[Document], per_file: int = 20_000) -> int:
    """Write documents in order, ``per_file`` to a file (fewer where they are long), and return how many. One row group
    is in memory at a time. An empty corpus gets one empty file."""
    folder.mkdir(parents=True, exist_ok=True)
    written = files = 0
    left = iter(documents)
    document = next(left, None)
    while document is not None or files == 0:
        with parquet_file(folder / PATTERN.format(files)) as add:
            count = size = 0
            while document is not None and count < per_file and size < FILE_CHARACTERS:
                count += 1
                size += len(document.text)
                add(document)
                document = next(left, None)
        written, files = written + count, files + 1
    return written


def write_file(file: Path, documents: Iterable[Document]) -> None:
    """Write one Parquet file."""
    with parquet_file(file) as add:
        for document in documents:
            add(document)


@contextmanager
def parquet_file(file: Path) -> Iterator[Callable[[Document], None]]:
    """Adds documents to a new Parquet file, which has a temporary name until the block ends well: a killed writer
    leaves no half file."""
    import pyarrow.parquet as pq

    temporary = file.with_name(file.name + ".tmp")
    batch: list[Document] = []
    groups = 0
    with pq.ParquetWriter(temporary, _table([]).schema, compression="zstd") as writer:

        def flush() -> None:
            nonlocal groups
            writer.write_table(_table(batch), row_group_size=ROW_GROUP)
            groups += 1
            batch.clear()

        def add(document: Document) -> None:
            batch.append(document)
            if len(batch) == ROW_GROUP:
                flush()

        yield add
        if batch or not groups:
            flush()
    temporary.replace(file)


def _table(documents: list[Document]) -> "pa.Table":
    import pyarrow as pa

    columns = {
        "id": pa.array([d.id for d in documents], pa.string()),
        "text": pa.array([d.text for d in documents], pa.string()),
        "source": pa.array([d.source for d in documents], pa.string()),
        "language": pa.array([d.language for d in documents], pa.string()),
        "domain": pa.array([d.domain for d in documents], pa.string()),
        "licence": pa.array([d.licence for d in documents], pa.string()),
        "quality": pa.array([_json(d.quality) for d in documents], pa.string()),
        "copies": pa.array([d.copies for d in documents], pa.int32()),
        "meta": pa.array([_json(d.meta) for d in documents], pa.string()),
    }
    return pa.table(columns)


def _json(value: dict) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
