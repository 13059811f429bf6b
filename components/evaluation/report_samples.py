"""Documents to look at on the report card: some that were kept and some that were dropped, each with the reason.

They are read from what the data stages have left behind. Of a large corpus only a few files are opened.
"""

import hashlib
import heapq
import json
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from components.data.documents import Document, read_file
from components.stage import Artifact

FILES = 4
"""Files of documents that are opened of an artifact."""
ROWS = 5_000
"""Lines that are read of what a stage has written about dropped documents."""
TEXT = 400
"""Characters of a sample."""
FINAL = ("decontaminate", "mixture", "domains", "quality", "deduplicate", "clean")
"""Where kept documents are taken from: the last of these that ran."""

Sample = dict[str, Any]
"""decision, stage, reason, source, text."""


def document_samples(inputs: Mapping[str, Artifact], seed: int, each: int = 20) -> list[Sample]:
    """Up to ``each`` kept documents and then up to ``each`` dropped ones."""
    rng = random.Random(f"{seed}-report-samples")
    dropped = [list(candidates) for candidates in (
        by_cleaning(inputs, rng), by_deduplication(inputs, rng, each), by_quality(inputs), by_decontamination(inputs),
    )]  # fmt: skip
    return [*kept(inputs, seed, each), *in_turns(dropped, each)]


def kept(inputs: Mapping[str, Artifact], seed: int, each: int) -> list[Sample]:
    """Documents of every domain in turn, at random within it."""
    stage = next((stage for stage in FINAL if stage in inputs), None)
    if stage is None:
        return []
    domains: dict[str, list[tuple[str, int, Document]]] = defaultdict(list)
    for number, document in enumerate(some_documents(inputs[stage].path, random.Random(seed))):
        lot = hashlib.sha256(f"{seed}-{document.id}".encode()).hexdigest()
        best = domains[document.domain]
        entry = (lot, -number, document)  # the number decides between equal ids
        heapq.heappush(best, entry) if len(best) < each else heapq.heappushpop(best, entry)
    chosen = in_turns([[document for _, _, document in sorted(domains[name])] for name in sorted(domains)], each)
    return [sample("kept", stage, why_kept(document), document.source, document.text) for document in chosen]


def why_kept(document: Document) -> str:
    """What the stages found: domain, quality, how often it is seen."""
    facts = [document.domain or "no domain"]
    if "overall" in document.quality:
        facts.append(f"quality {document.quality['overall']:.2f}")
    if document.copies != 1:
        facts.append(f"seen {document.copies} times")
    if copies := document.meta.get("duplicates"):
        facts.append(f"best of {int(copies) + 1} copies")
    return ", ".join(facts)


def by_cleaning(inputs: Mapping[str, Artifact], rng: random.Random) -> Iterator[Sample]:
    """The samples that cleaning keeps, a reason after the other."""
    reasons: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows(inputs, "clean", "dropped.jsonl"):
        reasons[row["reason"]].append(row)
    order = sorted(reasons)
    rng.shuffle(order)
    for row in in_turns([reasons[reason] for reason in order], ROWS):
        yield sample("dropped", "clean", row["reason"], row["source"], row["text"])


def by_deduplication(inputs: Mapping[str, Artifact], rng: random.Random, each: int) -> Iterator[Sample]:
    """Dropped copies with the document that stands for them, where both are in the files that are opened."""
    clusters = list(rows(inputs, "deduplicate", "clusters.jsonl"))
    if "clean" not in inputs or not clusters:
        return
    rng.shuffle(clusters)
    ids = {id for cluster in clusters for id in (cluster["kept"], cluster["dropped"][0])}
    found: dict[str, list[Document]] = defaultdict(list)
    for document in some_documents(inputs["clean"].path, random.Random(rng.random())):
        if document.id in ids:
            document.text = document.text[:TEXT]
            found[document.id].append(document)
    shown = 0
    for cluster in clusters:
        copies, originals = found[cluster["dropped"][0]], found[cluster["kept"]]
        if copies and originals and shown < each:
            copy, original = copies[-1], originals[0]
            shown += 1
            kind = "exact copy of" if copy.id == original.id else "copy or near copy of"
            reason = f"{kind} a document from {original.source}: “{original.text[:80]}…”"
            yield sample("dropped", "deduplicate", reason, copy.source, copy.text)


def by_quality(inputs: Mapping[str, Artifact]) -> Iterator[Sample]:
    """The documents below the threshold that the quality stage shows."""
    for row in rows(inputs, "quality", "samples.jsonl"):
        if not row["kept"]:
            yield sample("dropped", "quality", f"quality {row['overall']:.2f}, too low", row["source"], row["text"])


def by_decontamination(inputs: Mapping[str, Artifact]) -> Iterator[Sample]:
    """Documents that hold an item of an evaluation set."""
    for row in rows(inputs, "decontaminate", "matches.jsonl"):
        reason = f"holds {row['item']}: {row['common_words']} of {row['of']} words"
        yield sample("dropped", "decontaminate", reason, row["source"], row["text"])


def sample(decision: str, stage: str, reason: str, source: str, text: str) -> Sample:
    return {"decision": decision, "stage": stage, "reason": reason, "source": source, "text": text[:TEXT]}


def in_turns(groups: list[list[Any]], limit: int) -> list[Any]:
    """The first of every group, then the second of every group, and so on."""
    longest = max(map(len, groups), default=0)
    order = [group[place] for place in range(longest) for group in groups if place < len(group)]
    return order[:limit]


def rows(inputs: Mapping[str, Artifact], stage: str, file: str) -> Iterable[dict[str, Any]]:
    path = inputs[stage].path / file if stage in inputs else None
    if path is None or not path.is_file():
        return
    with path.open(encoding="utf-8") as lines:
        for line, _ in zip(lines, range(ROWS), strict=False):
            yield json.loads(line)


def some_documents(folder: Path, rng: random.Random) -> Iterator[Document]:
    """The documents of a few files, in order."""
    files = sorted(folder.glob("documents-*.parquet"))
    for file in sorted(rng.sample(files, min(FILES, len(files)))):
        yield from read_file(file)
