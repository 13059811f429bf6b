"""Draws candidates, verifies them, keeps what passes and measures how much the verification was worth."""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from components.data import synthetic_code, synthetic_knowledge, synthetic_mathematics, synthetic_recall
from components.data.candidates import ACCEPTED, Candidate, Verifier
from components.data.documents import Document, new_document, read_documents, write_documents
from components.data.judging import make_teacher
from components.stage import Artifact, Inputs, Run, StageError, Summary, effect

if TYPE_CHECKING:
    from components.data.synthetic import SyntheticConfig

BATCH = 500
FILLER_SENTENCES = 20_000
Reward = Callable[[list[str]], list[float]]


@dataclass
class Tally:
    """What became of the candidates of one kind."""

    verdicts: Counter[str] = field(default_factory=Counter)
    written: Counter[bool | None] = field(default_factory=Counter)
    kept: Counter[bool | None] = field(default_factory=Counter)
    documents: int = 0
    size: int = 0

    def correct_share(self, counts: Counter[bool | None]) -> float:
        known = counts[True] + counts[False]
        return counts[True] / known if known else float("nan")


def write_synthetic(config: "SyntheticConfig", inputs: Inputs, run: Run) -> Summary:
    """See ``components.data.synthetic.synthesize``."""
    prose, sentences = _source_text(inputs["documents"])
    if not sentences:
        raise StageError("synthetic: no prose sentences in the corpus to hide keys in; add a source of English prose")
    errors = config.error_share

    def rng(kind: str) -> random.Random:
        return random.Random(f"{run.seed}-synthetic-{kind}")

    mathematics = synthetic_mathematics.write(config.families, errors, rng("math"))
    if config.writer != "procedural":
        mathematics = _taught(mathematics, config, run)
    kinds: dict[str, tuple[int, Iterator[Candidate], Verifier]] = {
        "math": (config.mathematics_bytes, mathematics, synthetic_mathematics.verify),
        "code": (config.code_bytes, synthetic_code.write(errors, rng("code")), synthetic_code.verify),
        "knowledge": (
            config.knowledge_bytes,
            synthetic_knowledge.write(prose, errors, rng("knowledge")),
            synthetic_knowledge.verify,
        ),
        "retrieval": (
            config.retrieval_bytes,
            synthetic_knowledge.write_retrieval(sentences, config.retrieval_characters, errors, rng("retrieval")),
            synthetic_knowledge.verify_retrieval,
        ),
        "recall": (
            config.recall_bytes,
            synthetic_recall.write(synthetic_recall.vocabulary(sentences), errors, rng("recall")),
            synthetic_recall.verify,
        ),
    }
    reward = _reward(config, run)
    tallies = {kind: Tally() for kind in kinds}
    generator = "reasoning-gym and templates" if config.writer == "procedural" else config.teacher.model

    def documents() -> Iterator[Document]:
        with run.progress(sum(size for size, _, _ in kinds.values()), "synthetic", unit="bytes") as progress:
            for kind, (wanted, candidates, verify) in kinds.items():
                for candidate in _verified(candidates, verify, reward, config.minimum_reward, wanted, tallies[kind]):
                    progress.advance(len(candidate.text.encode()))
                    yield new_document(
                        candidate.text,
                        source=f"synthetic-{kind}",
                        language="code" if kind == "code" else "en",
                        domain=f"synthetic-{kind}",
                        licence="generated",
                        meta={
                            "generator": generator,
                            "family": candidate.family,
                            "seed": str(run.seed),
                            "verdict": ACCEPTED,
                        },
                    )

    count = write_documents(run.output, documents())
    return _summary(count, tallies)


def _verified(
    candidates: Iterator[Candidate], verify: Verifier, reward: Reward | None, minimum: float, wanted: int, tally: Tally
) -> Iterator[Candidate]:
    """Accepted candidates, each text once, until ``wanted`` bytes are there or the writer has no more."""
    seen: set[str] = set()
    while tally.size < wanted:
        batch = list(islice(candidates, BATCH))
        if not batch:
            return
        verdicts = verify(batch)
        if reward is not None:
            ratings = reward([candidate.text for candidate in batch])
            verdicts = [
                "low reward" if verdict == ACCEPTED and rating < minimum else verdict
                for verdict, rating in zip(verdicts, ratings, strict=True)
            ]
        for candidate, verdict in zip(batch, verdicts, strict=True):
            tally.verdicts[verdict] += 1
            tally.written[candidate.correct] += 1
            if verdict != ACCEPTED or candidate.text in seen or tally.size >= wanted:
                continue
            seen.add(candidate.text)
            tally.kept[candidate.correct] += 1
            tally.documents += 1
            tally.size += len(candidate.text.encode())
            yield candidate


def _source_text(corpus: Artifact) -> tuple[list[Document], list[str]]:
    """English prose for questions, encyclopaedic first, and sentences of a fit length for filler."""
    prose = [d for d in read_documents(corpus) if d.language == "en" and d.domain not in {"code", "mathematics"}]
    prose.sort(key=lambda document: (document.domain != "encyclopaedia", document.id))
    sentences: list[str] = []
    for document in prose:
        sentences += [s for s in synthetic_knowledge.sentences_of(document.text) if 40 <= len(s) <= 160]
        if len(sentences) >= FILLER_SENTENCES:
            break
    return prose, sentences


def _taught(problems: Iterator[Candidate], config: "SyntheticConfig", run: Run) -> Iterator[Candidate]:
    """The same problems with solutions that a language model writes; nobody knows beforehand which are right."""
    teacher = make_teacher("endpoint" if config.writer == "endpoint" else "checkpoint", config.teacher, run)
    while True:
        batch = list(islice(problems, 100))
        prompts = [
            "Solve the problem step by step, one equation a line, and end with a line 'Answer: ' and only the "
            f"answer.\n\n{problem.text.splitlines()[0]}"
            for problem in batch
        ]
        for problem, text in zip(batch, teacher.complete_all(prompts, max_tokens=400), strict=True):
            lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
            evidence = problem.evidence
            yield synthetic_mathematics.candidate(
                problem.family, evidence["dataset"], evidence["entry"], lines, correct=None
            )


def _reward(config: "SyntheticConfig", run: Run) -> Reward | None:
    """The optional reward filter: probability that a language model calls the text correct and clear."""
    if config.minimum_reward == 0:
        return None
    teacher = make_teacher("checkpoint" if config.teacher.checkpoint else "endpoint", config.teacher, run)
    question = "Is the following text correct, clear and useful to learn from? Answer Yes or No.\n\n"

    def rate(texts: list[str]) -> list[float]:
        return [scores["Yes"] for scores in teacher.score_all([question + text for text in texts], ("Yes", "No"))]

    return rate


def _summary(count: int, tallies: dict[str, Tally]) -> Summary:
    kinds: dict[str, dict[str, Any]] = {}
    effects = []
    for kind, tally in tallies.items():
        total = sum(tally.verdicts.values())
        if not total:
            continue
        kinds[kind] = {
            "documents": tally.documents,
            "bytes": tally.size,
            "candidates": total,
            "acceptance": round(tally.verdicts[ACCEPTED] / total, 4),
            "verdicts": dict(sorted(tally.verdicts.items())),
        }
        if tally.written[True] + tally.written[False]:
            effects.append(
                effect(
                    f"correct share of synthetic {kind}",
                    tally.correct_share(tally.kept),
                    tally.correct_share(tally.written),
                    note=f"kept {tally.documents} of {total} candidates; planted errors are known to the writer only",
                )
            )
    return {"documents": count, "kinds": kinds, "effects": effects}
