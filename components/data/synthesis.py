"""Draws candidates, verifies them, keeps what passes and measures how much the verification was worth."""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from components.data import (
    synthetic_code,
    synthetic_knowledge,
    synthetic_mathematics,
    synthetic_recall,
    synthetic_taught,
)
from components.data.candidates import ACCEPTED, Candidate, Verifier
from components.data.documents import Document, new_document, read_documents, write_documents
from components.data.judging import make_teacher
from components.data.novelty import Novelty
from components.stage import Artifact, Inputs, Run, StageError, Summary, effect

if TYPE_CHECKING:
    from components.data.judging import TeacherConfig
    from components.data.synthetic import SyntheticConfig

BATCH = 500
FILLER_SENTENCES = 20_000
PATIENCE = 20
"""Batches without any that is kept, after which a kind is given up: a weak teacher would be asked for ever."""
Reward = Callable[[list[Candidate], list[str]], list[str]]
"""Candidates and their verdicts -> verdicts."""
Kind = tuple[int, Iterator[Candidate], Verifier]
RandomOf = Callable[[str], random.Random]
DOMAINS = {"textbook": "knowledge", "problems": "math", "programs": "code"}
"""Where the kinds that a teacher writes belong in a mixture."""


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
    kinds: dict[str, Kind] = {
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
    if config.writer != "procedural":
        kinds |= _written_by_teacher(config, prose, rng, run)
    tallies = {kind: Tally() for kind in kinds}
    generator = "reasoning-gym and templates" if config.writer == "procedural" else config.teacher.model

    def documents() -> Iterator[Document]:
        with run.progress(sum(size for size, _, _ in kinds.values()), "synthetic", unit="bytes") as progress:
            for kind, (wanted, candidates, verify) in kinds.items():
                novelty = Novelty(config.most_alike) if config.most_alike < 1 else None
                rewards = _rewards(config, kind, run)
                at_once = synthetic_taught.ASKED_AT_ONCE if kind in DOMAINS else BATCH
                for candidate in _verified(candidates, verify, rewards, novelty, wanted, tallies[kind], at_once):
                    progress.advance(len(candidate.text.encode()))
                    domain = DOMAINS.get(kind, kind)
                    yield new_document(
                        candidate.text,
                        source=f"synthetic-{kind}",
                        language="code" if domain == "code" else "en",
                        domain=f"synthetic-{domain}",
                        licence="generated",
                        meta={
                            "generator": generator,
                            "family": candidate.family,
                            "seed": str(run.seed),
                            "verdict": ACCEPTED,
                            **candidate.evidence.get("meta", {}),
                        },
                    )

    count = write_documents(run.output, documents())
    return _summary(count, tallies)


def _verified(
    candidates: Iterator[Candidate], verify: Verifier, rewards: Sequence[Reward], novelty: Novelty | None, wanted: int,
    tally: Tally, batch_size: int,
) -> Iterator[Candidate]:  # fmt: skip
    """Accepted candidates, each text once, until ``wanted`` bytes are there, the writer has no more, or verification
    accepts nothing any more."""
    seen: set[str] = set()
    in_vain = 0
    while tally.size < wanted and in_vain < PATIENCE:
        batch = list(islice(candidates, batch_size))
        if not batch:
            return
        in_vain += 1
        verdicts = verify(batch)
        for reward in rewards:
            verdicts = reward(batch, verdicts)
        signatures = novelty.sign([candidate.text for candidate in batch]) if novelty else [None] * len(batch)
        for candidate, given, signature in zip(batch, verdicts, signatures, strict=True):
            verdict = given
            if novelty and verdict == ACCEPTED and not novelty.is_new(signature):
                verdict = "too alike"
            tally.verdicts[verdict] += 1
            tally.written[candidate.correct] += 1
            if verdict != ACCEPTED or candidate.text in seen or tally.size >= wanted:
                continue
            if novelty:
                novelty.keep(signature)
            in_vain = 0
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
        answers = teacher.complete_all(prompts, max_tokens=400)
        for problem, prompt, text in zip(batch, prompts, answers, strict=True):
            lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
            evidence = problem.evidence
            solved = synthetic_mathematics.candidate(
                problem.family, evidence["dataset"], evidence["entry"], lines, correct=None
            )
            solved.evidence["meta"] = {"prompt": synthetic_taught.prompt_name("solution", prompt)}
            yield solved


def _written_by_teacher(config: "SyntheticConfig", prose: list[Document], rng: RandomOf, run: Run) -> dict[str, Kind]:
    """The kinds of which a teacher writes everything, as far as any are asked for."""
    if not (config.textbook_bytes or config.problem_bytes or config.program_bytes):
        return {}
    teacher = make_teacher("endpoint" if config.writer == "endpoint" else "checkpoint", config.teacher, run)
    examples = synthetic_mathematics.write(config.families, 0.0, rng("problems"))
    return {
        "textbook": (
            config.textbook_bytes, synthetic_taught.write_textbook(prose, teacher), synthetic_taught.verify_textbook
        ),
        "problems": (
            config.problem_bytes, synthetic_taught.write_problems(examples, teacher), synthetic_taught.verify_problems
        ),
        "programs": (
            config.program_bytes, synthetic_taught.write_programs(teacher, rng("programs")),
            synthetic_taught.verify_programs,
        ),
    }  # fmt: skip


def _rewards(config: "SyntheticConfig", kind: str, run: Run) -> list[Reward]:
    """The optional reward filters on what verification accepts, one for every kind and one for mathematics."""
    found = []
    if config.minimum_reward:
        question = "Is the following text correct, clear and useful to learn from? Answer Yes or No.\n\n"
        found.append(_reward("reward", question, config.minimum_reward, config.teacher, run))
    if config.minimum_mathematics_reward and DOMAINS.get(kind, kind) == "math":
        question = "Does every step of this solution follow, and does it answer the problem? Answer Yes or No.\n\n"
        model = config.mathematics_teacher or config.teacher
        found.append(_reward("mathematics reward", question, config.minimum_mathematics_reward, model, run))
    return found


def _reward(name: str, question: str, minimum: float, config: "TeacherConfig", run: Run) -> Reward:
    """Refuses accepted candidates to which a language model gives less probability of Yes; notes what it gives."""
    teacher = make_teacher("checkpoint" if config.checkpoint else "endpoint", config, run)

    def filtered(candidates: list[Candidate], verdicts: list[str]) -> list[str]:
        accepted = [number for number, verdict in enumerate(verdicts) if verdict == ACCEPTED]
        ratings = teacher.score_all([question + candidates[number].text for number in accepted], ("Yes", "No"))
        left = list(verdicts)
        for number, rating in zip(accepted, ratings, strict=True):
            candidates[number].evidence.setdefault("meta", {})[name] = f"{rating['Yes']:.4f}"
            if rating["Yes"] < minimum:
                left[number] = f"low {name}"
        return left

    return filtered


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
