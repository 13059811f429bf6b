"""Stage ``factories``: conversations from the nine factories, with evidence a record and the rates of each factory.

Writes ``conversations.parquet`` (split ``sft``; ``meta`` holds factory and evidence; and ``heldout``, where that is
asked for) and ``rejected.jsonl``, a few examples of each reason. A planted error that a check accepts is a fault of
that check and fails the stage.
"""

import json
import operator
import random
from collections import Counter
from importlib import import_module
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from components.data.judging import TeacherConfig, make_teacher
from components.sft.conversation_store import Conversation, read_conversations, write_conversations
from components.sft.factories.factory import Candidate, Factory, Verdict
from components.sft.factories.held_out import accepted as accepted_candidates
from components.sft.factories.held_out import answered, hold_out
from components.sft.factories.taught import Sampling, batch_size, pass_rates, taught
from components.stage import Inputs, Progress, Run, StageConfig, StageError, Summary, effect

if TYPE_CHECKING:
    from components.teacher import Teacher

FACTORIES = (
    "long_generation", "mathematics", "coding", "instructions", "structured", "logic", "cross_lingual",
    "system_prompts", "filtering",
)  # fmt: skip
"""In the order of the report."""
EXAMPLES = 3
"""Rejected candidates kept for each factory and reason."""


def _procedural(writer: str) -> bool:
    return writer == "procedural"


def _default_teacher(teacher: TeacherConfig) -> bool:
    return teacher == TeacherConfig()


class FactoriesConfig(StageConfig):
    """How many records each factory makes."""

    records: dict[str, int] = Field(
        default=dict.fromkeys(FACTORIES, 200), description="factory -> records that its check accepts"
    )
    planted_share: float = Field(0.1, ge=0, lt=1, description="share of candidates that are wrong on purpose")
    batch: int = Field(50, ge=1, description="candidates that are checked at a time")
    minimum_acceptance: float = Field(0.1, gt=0, le=1, description="a factory below it ends the stage")
    held_out: int = Field(
        0, ge=0, exclude_if=operator.not_,
        description="prompts of each factory that no record shares its source with; `evaluate` asks them",
    )  # fmt: skip
    writer: Literal["procedural", "endpoint", "checkpoint"] = Field(
        "procedural", description="who answers: the factories themselves, or `teacher`", exclude_if=_procedural
    )
    teacher: TeacherConfig = Field(TeacherConfig(), description="the model that answers", exclude_if=_default_teacher)
    samples: int = Field(4, ge=1, description="a teacher's responses to a prompt", exclude_if=lambda n: n == 4)
    temperature: float = Field(0.8, gt=0, description="of a teacher's responses", exclude_if=lambda t: t == 0.8)
    max_tokens: int = Field(1024, ge=1, description="of a teacher's response", exclude_if=lambda n: n == 1024)
    difficulty: tuple[float, float] = Field(
        (0.0, 1.0), description="least and largest share of a teacher's responses to a prompt that hold",
        exclude_if=lambda bounds: bounds == (0.0, 1.0),
    )  # fmt: skip


def make_factories(config: FactoriesConfig, inputs: Inputs, run: Run) -> Summary:
    """Run every factory until it has its records; the effect is correctness after the checks and before them.

    With the input ``conversations`` no record comes as close to one of its held-out prompts as the contamination rule
    forbids.
    """
    names = chosen(config)
    teacher = asked_teacher(config, run)
    heldout = _heldout_words(inputs)
    conversations: list[Conversation] = []
    tallies: dict[str, Summary] = {}
    rejected: list[dict[str, object]] = []
    with run.progress(sum(config.records.values()), "factories", unit="record") as bar:
        for name in names:
            factory = answered_by(load(name), config, teacher, run.seed)
            own = _held_out(load(name), config.held_out, run.seed)
            sources = {answered(conversation, "").source for conversation in own}
            kept, tally = _run_factory(factory, config, run.seed, rejected, bar, heldout, sources)
            conversations += [*kept, *own]
            tallies[name] = tally
            run.metrics({f"{name}/acceptance": tally["acceptance"]})
    write_conversations(run.output, conversations)
    lines = (json.dumps(row, ensure_ascii=False) for row in rejected)
    (run.output / "rejected.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    drawn, planted = (sum(tally[key] for tally in tallies.values()) for key in ("candidates", "planted"))
    summary: Summary = {
        "conversations": sum(c.split == "sft" for c in conversations),
        "factories": tallies,
        "effects": [
            effect("records without a planted error", 1.0, 1 - planted / max(1, drawn), note="after the checks, before")
        ],
    }
    return summary | ({"teacher": cost(config, teacher)} if teacher else {})


def chosen(config: FactoriesConfig) -> list[str]:
    """The factories that records are wanted of, in the order of the report; StageError for one that there is not."""
    if unknown := sorted(set(config.records) - set(FACTORIES)):
        raise StageError(f"factories.records: no factory {unknown[0]!r}; there are {', '.join(FACTORIES)}")
    return [name for name in FACTORIES if config.records.get(name)]


def asked_teacher(config: FactoriesConfig, run: Run) -> "Teacher | None":
    """The model that answers, with what it has answered before in ``run.state``; None where the factories do."""
    return None if config.writer == "procedural" else make_teacher(config.writer, config.teacher, run)


def answered_by(
    factory: Factory, config: FactoriesConfig, teacher: "Teacher | None", seed: int, at_once: int = 32
) -> Factory:
    """The factory, with the teacher's responses where there is one."""
    if teacher is None:
        return factory
    return taught(factory, teacher, Sampling(config.samples, config.temperature, config.max_tokens, seed, at_once))


def drawn_at_once(config: FactoriesConfig) -> int:
    """Candidates of a batch: whole prompts, where a teacher answers each several times."""
    return config.batch if config.writer == "procedural" else batch_size(config.batch, config.samples)


def cost(config: FactoriesConfig, teacher: "Teacher") -> Summary:
    """What all answers together have cost, those that were kept from an earlier run too."""
    usage, prices = teacher.usage, config.teacher
    price = usage.prompt_tokens * prices.prompt_price + usage.answer_tokens * prices.answer_price
    return {"prompt_tokens": usage.prompt_tokens, "answer_tokens": usage.answer_tokens, "cost": price / 1e6}


def load(name: str) -> Factory:
    """The factory of a module of this folder."""
    return import_module(f"components.sft.factories.{name}").FACTORY


def _run_factory(
    factory: Factory, config: FactoriesConfig, seed: int, rejected: list[dict[str, object]], bar: Progress,
    heldout: list[list[str]], sources: set[str],
) -> tuple[list[Conversation], Summary]:  # fmt: skip
    wanted = config.records[factory.name]
    candidates = factory.write(random.Random(f"{seed}-factory-{factory.name}"), config.planted_share)
    reasons: Counter[str] = Counter()
    kept: dict[str, Conversation] = {}
    drawn = planted = accepted = duplicates = 0
    asked = config.samples if config.writer != "procedural" else 1
    while len(kept) < wanted:
        before, batch = len(kept), list(islice(candidates, drawn_at_once(config)))
        verdicts = factory.check(batch)
        rates = pass_rates(batch, [verdict.accepted for verdict in verdicts], asked)
        for candidate, verdict, rate in zip(batch, verdicts, rates, strict=True):
            drawn, planted = drawn + 1, planted + bool(candidate.planted)
            if not verdict.accepted:
                reasons[verdict.reason] += 1
                if reasons[verdict.reason] <= EXAMPLES:
                    rejected.append(_rejection(factory, candidate, verdict))
                continue
            if candidate.planted:
                raise StageError(
                    f"factory {factory.name}: the check accepts a planted error ({candidate.planted}): "
                    f"{candidate.response[:200]!r}"
                )
            accepted += 1
            if _contaminated(candidate, heldout) or candidate.source in sources:
                reasons["contaminated"] += 1
                continue
            if asked > 1 and not config.difficulty[0] <= rate <= config.difficulty[1]:
                reasons["too hard" if rate < config.difficulty[0] else "too easy"] += 1
                continue
            key = json.dumps(candidate.messages, sort_keys=True)
            duplicates += key in kept
            if key not in kept and len(kept) < wanted:
                kept[key] = _record(factory, candidate, verdict, len(kept), rate if asked > 1 else None)
        bar.advance(len(kept) - before, factory=factory.name)
        if drawn >= 10 * len(batch) and accepted < config.minimum_acceptance * drawn:
            raise StageError(f"factory {factory.name}: only {accepted} of {drawn} accepted; reasons: {dict(reasons)}")
        if drawn > 20 * asked * (wanted + config.batch):
            raise StageError(f"factory {factory.name}: cannot make {wanted} different records; ask for fewer")
    return list(kept.values()), {
        "records": len(kept), "candidates": drawn, "acceptance": accepted / drawn, "planted": planted,
        "planted_rejected": planted, "duplicates": duplicates, "reasons": dict(sorted(reasons.items())),
    }  # fmt: skip


def _held_out(factory: Factory, count: int, seed: int) -> list[Conversation]:
    """Drawn on their own, so that the records do not depend on how many they are."""
    rng = random.Random(f"{seed}-factory-heldout-{factory.name}")
    return hold_out(factory, accepted_candidates(factory, rng), count) if count else []


def _heldout_words(inputs: Inputs) -> list[list[str]]:
    """What the held-out prompts ask, in words."""
    from components.data.words import comparable_words

    if "conversations" not in inputs:
        return []
    return [comparable_words(c.meta["content"]) for c in read_conversations(inputs["conversations"], "heldout")]


def _contaminated(candidate: Candidate, heldout: list[list[str]]) -> bool:
    from components.data.contamination import contaminates
    from components.data.words import comparable_words

    words = comparable_words(candidate.messages[-1]["content"]) if heldout else []
    return any(contaminates(words, other) for other in heldout)


def _record(
    factory: Factory, candidate: Candidate, verdict: Verdict, index: int, pass_rate: float | None
) -> Conversation:
    meta: dict[str, Any] = {"factory": factory.name, "task": candidate.task, "evidence": verdict.evidence}
    if pass_rate is not None:
        meta["pass_rate"] = pass_rate
    messages = [*candidate.messages, {"role": "assistant", "content": candidate.response}]
    identifier = f"sft-{factory.name}-{index:06d}"
    return Conversation(identifier, "sft", factory.name, messages, candidate.answer, meta)


def _rejection(factory: Factory, candidate: Candidate, verdict: Verdict) -> dict[str, object]:
    return {
        "factory": factory.name, "reason": verdict.reason, "evidence": verdict.evidence, "planted": candidate.planted,
        "messages": candidate.messages, "response": candidate.response[:2000],
    }  # fmt: skip
