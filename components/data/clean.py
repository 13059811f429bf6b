"""Clean: normalise, identify the language, drop what breaks a filter, replace personal data.

Every drop is counted by reason, and the first samples of each reason go to ``dropped.jsonl``. Documents are worked on
in shards by a pool of processes; a finished shard lies in ``run.state`` and is not done again after a kill.
"""

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from components.data.filters import FilterConfig, reason_to_drop
from components.data.pool import map_shards
from components.stage import Inputs, Run, StageConfig, StageError, Summary, effect

if TYPE_CHECKING:
    from components.data.documents import Document


class CleanConfig(StageConfig):
    """What stays."""

    filters: FilterConfig = Field(FilterConfig(), description="limits of the heuristic filters")
    languages: tuple[str, ...] = Field(("en", "zh", "ja", "code"), description="languages to keep")
    min_language_confidence: float = Field(
        0.8, ge=0, le=1, description="from here on the identified language overrules the source's own word"
    )
    web_domains: tuple[str, ...] = Field(("web",), description="domain hints to which the rules for web pages apply")
    samples: int = Field(3, ge=0, description="dropped documents to keep for inspection, of each reason")
    shard_size: int = Field(2_000, ge=1, description="documents a shard; results do not depend on it")


def clean(config: CleanConfig, inputs: Inputs, run: Run) -> Summary:
    """Clean every shard, then put the kept documents together in their old order."""
    from components.data.documents import count_documents, read_documents, write_documents

    corpus = inputs["documents"].path
    total = count_documents(corpus)
    shards = range((total + config.shard_size - 1) // config.shard_size)
    parts = [run.state / f"{shard:05d}" for shard in shards]
    split(corpus, config.shard_size, parts)
    todo = [(config, part) for part in parts if not (part / "report.json").is_file()]
    with run.progress(len(parts), "clean", unit="shard", start=len(parts) - len(todo)) as progress:
        for _ in map_shards(clean_shard, todo, layout=run.layout):
            progress.advance()
    reports = [json.loads((part / "report.json").read_text(encoding="utf-8")) for part in parts]

    kept = write_documents(run.output, (d for part in parts for d in read_documents(part)))
    if kept == 0:
        raise StageError("cleaning dropped every document; dropped reasons: " + ", ".join(merged(reports, "reasons")))
    write_dropped(run.output / "dropped.jsonl", reports, config.samples)
    return summarize(reports)


def split(corpus: Path, size: int, parts: list[Path]) -> None:
    """Write the input of every unfinished shard to its own file, so that workers need not read the whole corpus."""
    from components.data.documents import read_documents, write_file

    if all((part / "report.json").is_file() or (part / "input.parquet").is_file() for part in parts):
        return
    batch: list[Document] = []
    remaining = iter(parts)
    for document in read_documents(corpus):
        batch.append(document)
        if len(batch) == size:
            part = next(remaining)
            part.mkdir(parents=True, exist_ok=True)
            write_file(part / "input.parquet", batch)
            batch = []
    if batch:
        part = next(remaining)
        part.mkdir(parents=True, exist_ok=True)
        write_file(part / "input.parquet", batch)


def clean_shard(job: tuple[CleanConfig, Path]) -> None:
    """Clean one shard: ``input.parquet`` -> ``documents-00000.parquet`` and, last, ``report.json``."""
    from components.data.documents import read_file, write_documents
    from components.data.personal import scrub

    config, part = job
    counts: dict[str, Counter[str]] = {name: Counter() for name in COUNTERS}
    samples: list[dict[str, str]] = []
    kept: list[Document] = []
    for document in read_file(part / "input.parquet"):
        known = document.meta.get("label") or ("real" if document.meta.get("domain_hint") else "unlabelled")
        size = len(document.text.encode("utf-8"))
        counts["known"][known] += 1
        counts["totals"].update(documents_in=1, bytes_in=size)
        cleaned, reason = clean_document(document, config, counts["personal"])
        if reason:
            counts["reasons"][reason] += 1
            counts["dropped_known"][known] += 1
            if counts["reasons"][reason] <= config.samples:
                samples.append(
                    {"reason": reason, "source": document.source, "id": document.id, "text": scrub(document.text[:500])}
                )
            continue
        counts["totals"].update(documents_out=1, bytes_out=len(cleaned.text.encode("utf-8")))
        counts["sources"][cleaned.source] += 1
        counts["languages"][cleaned.language] += 1
        kept.append(cleaned)
    write_documents(part, kept)
    report = part / "report.json"
    temporary = report.with_suffix(".tmp")
    temporary.write_text(json.dumps({**counts, "samples": samples}, ensure_ascii=False), encoding="utf-8")
    temporary.replace(report)


COUNTERS = ("totals", "reasons", "known", "dropped_known", "personal", "sources", "languages")


def clean_document(
    document: "Document", config: CleanConfig, personal: Counter[str] | None = None
) -> tuple["Document", str]:
    """The cleaned document, and the reason to drop it or ``""``."""
    from components.data.documents import document_id
    from components.data.normalize import normalize
    from components.data.personal import scrub

    text = normalize(document.text, code=document.language == "code")
    language = language_of(text, document.language, config)
    if not text:
        return document, "empty"
    reason = reason_to_drop(
        text, language, config.filters,
        web=document.meta.get("domain_hint") in config.web_domains, prose=document.meta.get("form") != "lines",
    )  # fmt: skip
    if not reason and language not in config.languages:
        reason = f"language {language}"
    if reason:
        return document, reason
    document.text = scrub(text, language, personal)
    document.language = language
    document.id = document_id(document.text)
    return document, ""


def language_of(text: str, declared: str, config: CleanConfig) -> str:
    """The document's language: the source's word, unless identification is sure of another.

    English prose is confirmed by its function words, which is a hundred times faster than the n-gram model.
    """
    from components.data.filters import STOP_WORDS
    from components.data.language import identify

    if declared == "code":
        return declared
    if declared == "en" and len(STOP_WORDS["en"].intersection(text[:2_000].lower().split())) >= 3:
        return declared
    language, confidence = identify(text)
    if declared == "und":
        return language
    return language if language != "und" and confidence >= config.min_language_confidence else declared


def merged(reports: list[dict[str, Any]], name: str) -> dict[str, int]:
    """One counter summed over shards, sorted by key."""
    total: Counter[str] = Counter()
    for report in reports:
        total.update(report[name])
    return dict(sorted(total.items()))


def write_dropped(file: Path, reports: list[dict[str, Any]], samples: int) -> None:
    """The first ``samples`` dropped documents of every reason in corpus order."""
    seen: Counter[str] = Counter()
    with file.open("w", encoding="utf-8") as out:
        for report in reports:
            for sample in report["samples"]:
                seen[sample["reason"]] += 1
                if seen[sample["reason"]] <= samples:
                    out.write(json.dumps(sample, ensure_ascii=False) + "\n")


def summarize(reports: list[dict[str, Any]]) -> Summary:
    """Counts for the funnel, and the effects measured on labelled documents and on planted personal data."""
    from components.data.personal_probe import measure_scrubbing
    from components.data.statistics import share_above

    known, dropped = merged(reports, "known"), merged(reports, "dropped_known")
    totals = merged(reports, "totals")
    share_dropped = 1 - totals.get("documents_out", 0) / max(1, totals["documents_in"])
    probe = measure_scrubbing()
    effects = [
        effect(
            "planted personal data replaced", **share_above(probe.replaced, probe.planted, 0.0),
            note=f"{probe.planted} planted e-mails, phones, cards, accounts and addresses; baseline: no scrubbing",
        ),
        effect(
            "harmless numbers left alone", **share_above(probe.kept, probe.harmless, 0.0),
            note="dates, versions, ISBNs and measurements beside them; baseline: a scrubber that replaces every number",
        ),
    ]  # fmt: skip
    if known.get("junk"):
        effects.insert(0, effect(
            "labelled junk removed", **share_above(dropped.get("junk", 0), known["junk"], 0.0),
            note="random words, numbers and characters; baseline: no cleaning",
        ))  # fmt: skip
    if known.get("real"):
        effects.insert(1, effect(
            "real text lost", better="lower", **share_above(dropped.get("real", 0), known["real"], share_dropped),
            note="documents of sources with a known domain; baseline: as many documents dropped at random",
        ))  # fmt: skip
    return {
        **totals,
        "by_source": merged(reports, "sources"),
        "by_language": merged(reports, "languages"),
        "by_reason": merged(reports, "reasons"),
        "personal_data_replaced": merged(reports, "personal"),
        "effects": effects,
    }
