"""The corpora that small models are compared on: both sides of a claim are drawn from the same documents.

Held-out documents (``is_held_out`` with TEST_SHARE) are in none of them.
"""

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Literal

from pydantic import Field

from components.data.documents import Document, is_held_out, new_document, read_documents, write_documents
from components.data.mixture import MixtureConfig
from components.stage import Inputs, Run, StageConfig, Summary

TEST_SHARE = 0.04
"""Held out for the comparison."""
WATCHED_SHARE = 0.06
"""What the token files hold out, the above included: they must hold out something for the stage's own figures."""

Recipe = Literal[
    "any half", "best half", "natural shares", "rebalanced", "text", "text, mathematics and code",
    "text and filtered synthetic", "text and unfiltered synthetic",
]  # fmt: skip


class CorpusConfig(StageConfig):
    """One side of a comparison."""

    recipe: Recipe
    size: int = Field(1_300_000, ge=1, description="UTF-8 bytes of text")
    added: int = Field(0, ge=0, description="bytes of what is added to text")
    error_share: float = Field(0.3, ge=0, le=1, description="synthetic candidates with a planted error")


def make_corpus(config: CorpusConfig, inputs: Inputs, run: Run) -> Summary:
    """Stage: inputs ``documents`` (of the recipe's stage domains) and, where a side asks for them, ``heuristics`` (of
    stage deduplicate) and ``synthetic``."""
    written = write_documents(run.output, _documents(config, inputs, random.Random(f"{run.seed}-corpus"), run.seed))
    return {"documents": written}


def _documents(config: CorpusConfig, inputs: Inputs, rng: random.Random, seed: int) -> Iterator[Document]:
    match config.recipe:
        case "any half" | "best half":
            yield from _halves(config, inputs, rng)
        case "natural shares" | "rebalanced":
            yield from _weighted(config, inputs, seed)
        case "text":
            yield from _text(config.size, inputs, rng)
        case "text, mathematics and code":
            yield from _text(config.size, inputs, rng)
            code = _shuffled((d for d in trained_on(inputs["documents"].path) if d.domain == "code"), rng)
            exercises = trained_on(inputs["synthetic"].path)
            mathematics = _shuffled((d for d in exercises if d.domain == "synthetic-math"), rng)
            for added in (code, mathematics):
                yield from _until(config.added // 2, added)
        case "text and filtered synthetic" | "text and unfiltered synthetic":
            yield from _text(config.size, inputs, rng)
            filtered = config.recipe == "text and filtered synthetic"
            yield from _until(config.added, _exercises(config.error_share, filtered, rng))


def trained_on(folder: Path) -> Iterator[Document]:
    """Documents that are not held out."""
    return (d for d in read_documents(folder) if not is_held_out(d.id, TEST_SHARE))


def held_out(folder: Path) -> Iterator[Document]:
    """The others."""
    return (d for d in read_documents(folder) if is_held_out(d.id, TEST_SHARE))


def _halves(config: CorpusConfig, inputs: Inputs, rng: random.Random) -> Iterator[Document]:
    """Twice the size is drawn from what heuristics let pass; a half of every source and language of it is kept, the
    best by the judge or any. What the judge has dropped altogether counts as worst."""
    score = {d.id: d.quality.get("overall", 0.0) for d in read_documents(inputs["documents"])}
    pool = list(_until(2 * config.size, _shuffled(trained_on(inputs["heuristics"].path), rng)))
    strata: dict[tuple[str, str], list[Document]] = defaultdict(list)
    for document in pool:
        strata[document.source, document.language].append(document)
    for _, members in sorted(strata.items()):
        if config.recipe == "best half":
            members.sort(key=lambda document: -score.get(document.id, -1.0))
        yield from _until(sum(len(d.text.encode()) for d in members) // 2, members)


def _weighted(config: CorpusConfig, inputs: Inputs, seed: int) -> Iterator[Document]:
    """Domains at their natural shares, or at those of the report; any document of a domain is as good as another."""
    from components.data.mixture_solver import choose, document_table

    weights = {} if config.recipe == "natural shares" else MixtureConfig().factors
    wanted = MixtureConfig(factors=weights, shares={}, budget_bytes=config.size, quality_preference=0.0)
    folder = inputs["documents"].path
    table = document_table(trained_on(folder))
    choose(table, wanted, seed)
    for document, copies in zip(trained_on(folder), table["copies"].tolist(), strict=True):
        if copies:
            document.copies = copies
            yield document


def _text(size: int, inputs: Inputs, rng: random.Random) -> Iterator[Document]:
    """Documents of all domains but code and mathematics."""
    plain = (d for d in trained_on(inputs["documents"].path) if d.domain not in ("code", "mathematics"))
    return _until(size, _shuffled(plain, rng))


def _exercises(error_share: float, filtered: bool, rng: random.Random) -> Iterator[Document]:
    """Worked exercises as they are written, or those that verify."""
    from components.data import synthetic_mathematics
    from components.data.candidates import ACCEPTED
    from components.data.synthetic import SyntheticConfig

    candidates = synthetic_mathematics.write(SyntheticConfig().families, error_share, rng)
    while batch := list(islice(candidates, 500)):
        verdicts = synthetic_mathematics.verify(batch) if filtered else [ACCEPTED] * len(batch)
        for candidate, verdict in zip(batch, verdicts, strict=True):
            document = new_document(candidate.text, source="exercises", language="en", domain="synthetic-math")
            if verdict == ACCEPTED and not is_held_out(document.id, TEST_SHARE):
                yield document


def _shuffled(documents: Iterable[Document], rng: random.Random) -> list[Document]:
    found = list(documents)
    rng.shuffle(found)
    return found


def _until(size: int, documents: Iterable[Document]) -> Iterator[Document]:
    """Documents until ``size`` bytes are there; one of more than a tenth of them is passed over."""
    for document in documents:
        length = len(document.text.encode())
        if size <= 0:
            return
        if length <= max(size // 10, 20_000):
            size -= length
            yield document
