"""Ingest: fetch the sources of a corpus and turn every record into a document with its provenance.

Broken records go to ``quarantine.jsonl`` (source, file, line, byte offset, reason) and the rest goes on; a source that
is mostly broken stops the run, as soon as that is clear.
"""

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationInfo, field_validator, model_validator

from components.data.sources import Source, StdlibSource, check_sources, load_corpus
from components.stage import Inputs, Run, StageConfig, StageError, Summary, effect

if TYPE_CHECKING:
    from components.data.documents import Document

EARLY = 1_000
"""Records after which the share of broken ones is watched while a source is read, not only at its end."""


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
    with (run.output / "quarantine.jsonl").open("wb") as quarantine:
        for part in parts:
            with (part / "quarantine.jsonl").open("rb") as rows:
                shutil.copyfileobj(rows, quarantine)
    return summarize(config, reports)


def read_source(source: Source, config: IngestConfig, part: Path) -> None:
    """All documents of one source into ``part``, and last its report (which marks it as finished)."""
    from components.data.documents import write_documents
    from components.data.reading import documents_of

    part.mkdir(parents=True, exist_ok=True)
    for leftover in part.iterdir():
        leftover.unlink()
    tally: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    first: dict[str, Any] = {}

    def check(least: int) -> None:
        records = tally["documents"] + reasons.total()
        if records >= least and reasons.total() > config.max_broken_share * records:
            raise StageError(
                f"source {source.name}: {reasons.total()} of {records} records are broken, more than "
                f"max_broken_share = {config.max_broken_share}. The first: {first['file']} line {first['line']}: "
                f"{first['reason']}"
            )

    with (part / "quarantine.jsonl").open("w", encoding="utf-8") as quarantine:

        def report_broken(row: dict[str, Any]) -> None:
            first.update({} if first else row)
            reasons[row["reason"].partition(":")[0]] += 1
            quarantine.write(json.dumps(row, ensure_ascii=False) + "\n")
            check(least=EARLY)

        def counted() -> Iterator["Document"]:
            for document in documents_of(source, config.base, report_broken):
                size = len(document.text.encode("utf-8"))
                tally.update(documents=1, bytes=size, junk=int(source.label == "junk"))
                yield document
                if source.max_megabytes and tally["bytes"] >= source.max_megabytes * 1e6:
                    return

        write_documents(part, counted())
    check(least=1)
    report = part / "report.json"
    temporary = report.with_suffix(".tmp")
    temporary.write_text(json.dumps({**tally, "broken": reasons}, ensure_ascii=False), encoding="utf-8")
    temporary.replace(report)


def summarize(config: IngestConfig, reports: list[dict[str, Any]]) -> Summary:
    """Counts for the funnel. The effect: how much of what the sources hold became documents."""
    names = [source.name for source in config.sources]
    documents_by_source = {name: report.get("documents", 0) for name, report in zip(names, reports, strict=True)}
    bytes_by_source = {name: report.get("bytes", 0) for name, report in zip(names, reports, strict=True)}
    by_language: Counter[str] = Counter()
    for source, report in zip(config.sources, reports, strict=True):
        by_language[source.language] += report.get("documents", 0)
    documents = sum(documents_by_source.values())
    reasons: Counter[str] = Counter()
    for report in reports:
        reasons.update(report["broken"])
    broken = reasons.total()
    return {
        "documents_in": documents + broken,
        "documents_out": documents,
        "bytes_in": sum(bytes_by_source.values()),
        "bytes_out": sum(bytes_by_source.values()),
        "by_source": dict(sorted(documents_by_source.items())),
        "bytes_by_source": dict(sorted(bytes_by_source.items())),
        "by_language": dict(sorted(by_language.items())),
        "by_reason": dict(sorted(reasons.items())),
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
