"""Decontaminate: drop training documents that hold an item of an evaluation set (rule in ``contamination.py``).

``matches.jsonl`` says for every dropped document which item it holds. The rest of the mixture goes through as it is.
"""

import json
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from components.data.ingest import find_corpus
from components.data.pool import map_shards
from components.data.sources import Source, load_corpus
from components.stage import Inputs, Run, StageConfig, StageError, Summary, effect

if TYPE_CHECKING:
    from components.data.contamination import EvaluationIndex
    from components.data.documents import Document


class DecontaminateConfig(StageConfig):
    """Which evaluation sets are kept out of training."""

    benchmarks: str = Field("recipes/corpora/benchmarks.toml", description="corpus file of the evaluation sets")
    sources: tuple[Source, ...] = Field((), description="filled in from that file, so that they are in the digest")
    probes: int = Field(200, ge=0, description="documents planted to measure what the rule finds; never in the output")

    @model_validator(mode="before")
    @classmethod
    def load_sources(cls, values: Any) -> Any:
        file = find_corpus(values.get("benchmarks", cls.model_fields["benchmarks"].default))
        return {**values, "sources": [source.model_dump() for source in load_corpus(file)]}


def decontaminate(config: DecontaminateConfig, inputs: Inputs, run: Run) -> Summary:
    """Look every document up in the index of evaluation items and write those that hold none."""
    from components.data.contamination import EvaluationIndex
    from components.data.documents import document_files, read_documents, write_documents

    mixture = inputs["documents"].path
    items = read_items(config)
    items_file = run.state / "items.json"
    items_file.write_text(json.dumps(items, ensure_ascii=False), encoding="utf-8")
    files = document_files(mixture)
    states = [run.state / f"{file.stem}.json" for file in files]
    todo = [(items_file, *job) for job in zip(files, states, strict=True) if not job[1].is_file()]
    with run.progress(len(files), "decontaminate", unit="file", start=len(files) - len(todo)) as progress:
        for _ in map_shards(check_file, todo, layout=run.layout):
            progress.advance()
    matches = [match for state in states for match in json.loads(state.read_text(encoding="utf-8"))]
    contaminated = {match["id"] for match in matches}

    totals: Counter[str] = Counter()
    sources: Counter[str] = Counter()
    languages: Counter[str] = Counter()

    def kept() -> "Iterator[Document]":
        for document in read_documents(mixture):
            size = len(document.text.encode("utf-8"))
            totals.update(documents_in=1, bytes_in=size)
            if document.id in contaminated:
                continue
            totals.update(documents_out=1, bytes_out=size)
            sources[document.source] += 1
            languages[document.language] += 1
            yield document

    if write_documents(run.output, kept()) == 0:
        raise StageError("every document matches an evaluation item: is a benchmark listed as a training source?")
    with (run.output / "matches.jsonl").open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(match, ensure_ascii=False) + "\n" for match in matches)
    for file in sorted(mixture.glob("*.json")):
        shutil.copyfile(file, run.output / file.name)
    index = EvaluationIndex(items)
    return {
        **dict(sorted(totals.items())),
        "by_source": dict(sorted(sources.items())),
        "by_language": dict(sorted(languages.items())),
        "by_reason": dict(sorted(Counter(f"holds an item of {m['item'].rpartition('/')[0]}" for m in matches).items())),
        "evaluation_items": len(items),
        "evaluation_items_too_short": index.too_short,
        "effects": measure(config, index, run.output, run.seed),
    }


def read_items(config: DecontaminateConfig) -> list[tuple[str, str]]:
    """Name (``set/number``) and text of every evaluation item."""
    from components.data.reading import documents_of

    base = find_corpus(config.benchmarks).parent
    items: list[tuple[str, str]] = []
    for source in config.sources:
        broken: list[dict[str, Any]] = []
        texts = [document.text for document in documents_of(source, base, broken.append)]
        if broken or not texts:
            first = broken[0]["reason"] if broken else "no item found"
            raise StageError(f"evaluation set {source.name} cannot be read: {first}")
        items += [(f"{source.name}/{number}", text) for number, text in enumerate(texts)]
    return items


def check_file(job: tuple[Path, Path, Path]) -> None:
    """The matches of one Parquet file of documents, as JSON into ``state``."""
    from components.data.contamination import EvaluationIndex
    from components.data.documents import read_file
    from components.data.words import comparable_words

    items_file, file, state = job
    index = EvaluationIndex(json.loads(items_file.read_text(encoding="utf-8")))
    matches = []
    for document in read_file(file):
        match = index.match(comparable_words(document.text))
        if match:
            matches.append({
                "id": document.id, "source": document.source, "item": match.item, "common_words": match.common,
                "of": match.shorter, "text": document.text[:300],
            })  # fmt: skip
    temporary = state.with_suffix(".tmp")
    temporary.write_text(json.dumps(matches, ensure_ascii=False), encoding="utf-8")
    temporary.replace(state)


def measure(config: DecontaminateConfig, index: "EvaluationIndex", clean: Path, seed: int) -> list[dict[str, Any]]:
    """Plant evaluation items in clean documents, and quotations of 13 words, which are no contamination."""
    from components.data.contamination import MIN_COMMON
    from components.data.dedup_probe import edited
    from components.data.documents import read_documents
    from components.data.statistics import share_above
    from components.data.words import comparable_words

    rng = random.Random(f"{seed}-decontaminate-probe")
    # Twice the words of a quotation and more, so that a quotation is under the limit of 0.6.
    long_items = [words for words in index.words if len(words) > 2 * MIN_COMMON]
    hosts = [document.text for document in read_documents(clean)]
    if not config.probes or not long_items or not hosts:
        return [effect("documents checked", len(hosts), 0, unit="documents", note="baseline: no decontamination")]
    planted = found = quoted = lost = lost_to_grams = 0
    for _ in range(config.probes):
        item, host = rng.choice(long_items), comparable_words(rng.choice(hosts))
        cut = rng.randrange(len(host) + 1)
        planted += 1
        found += index.match([*host[:cut], *edited(item, 0.05, rng), *host[cut:]]) is not None
        start = rng.randrange(len(item) - MIN_COMMON)
        quotation = [*host[:cut], *item[start : start + MIN_COMMON], *host[cut:]]
        if len(quotation) > 2 * MIN_COMMON:
            quoted += 1
            lost += index.match(quotation) is not None
            lost_to_grams += index.shares_gram(quotation)
    return [
        effect(
            "planted contamination found", **share_above(found, planted, 0.0),
            note=f"evaluation items with 5% of their words edited inside {planted} documents; baseline: no filter",
        ),
        effect(
            "clean documents lost", better="lower", **share_above(lost, quoted, lost_to_grams / max(1, quoted)),
            note=f"{quoted} documents that quote 13 words of an item; baseline: dropping on any shared 13-gram",
        ),
    ]  # fmt: skip
