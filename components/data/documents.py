"""The document: the one record that every data stage reads and writes, and how it lies on disk.

A corpus folder holds ``documents-00000.parquet``, ``documents-00001.parquet``, ... Rows keep their order, files
are written with fixed settings and no timestamps, so equal documents give equal bytes and an equal artifact digest.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.stage import Artifact, StageError

PATTERN = "documents-{:05d}.parquet"
FILE_CHARACTERS = 64_000_000
"""Most characters of a file's documents."""
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
    """Every document of a corpus artifact or folder, in stored order, one row group in memory at a time."""
    for file in document_files(corpus):
        yield from read_file(file)


def read_file(file: Path) -> Iterator[Document]:
    """The documents of one Parquet file."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as parquet:
        for group in range(parquet.num_row_groups):
            columns = parquet.read_row_group(group).to_pydict()
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
    """Write documents in order, ``per_file`` to a file (fewer where they are long: a file's documents are held in
    memory), and return how many. An empty corpus gets one empty file."""
    folder.mkdir(parents=True, exist_ok=True)
    written = files = size = 0
    batch: list[Document] = []
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if len(batch) == per_file or size >= FILE_CHARACTERS:
            write_file(folder / PATTERN.format(files), batch)
            written, files, size, batch = written + len(batch), files + 1, 0, []
    if batch or files == 0:
        write_file(folder / PATTERN.format(files), batch)
        written += len(batch)
    return written


def write_file(file: Path, documents: list[Document]) -> None:
    """Write one Parquet file under a temporary name and move it into place, so a killed writer leaves no half file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

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
    temporary = file.with_name(file.name + ".tmp")
    pq.write_table(pa.table(columns), temporary, compression="zstd", row_group_size=5_000)
    temporary.replace(file)


def _json(value: dict) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
