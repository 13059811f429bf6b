"""Stage ``conversations``: prompts with checkable answers for SFT, DPO, GRPO and their held-out measurement.

A teacher writes several candidate responses a prompt; the verifier rejects what is wrong or misformatted, and one
of the accepted becomes the SFT target (rejection sampling, section 4.1 of the report). The teacher here is the
families' own solver behind a stated error rate, so that the effect of rejection can be measured exactly; a model
behind an endpoint takes its place by writing the same candidates.

No two prompts of any splits ask the same thing, whatever their wording, and none comes as close to a held-out one as
the decontamination rule forbids (section 3.1 of the report: it holds for post-training data too). The rule is applied
to what is asked, not to the wording: prompts of one family share their wording, which would make all of them match.
"""

import operator
import random
from collections.abc import Iterator

from pydantic import Field

from components.sft.conversation_store import Conversation, Split, write_conversations
from components.sft.tasks import DOMAINS, FAMILIES, Problem, generate, misformat, mistake, solution, verify
from components.stage import Inputs, Run, StageConfig, StageError, Summary, effect

SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are Qwen, a helpful assistant.",
    "You are a careful assistant.",
    "Follow the instructions exactly.",
    "Be brief and precise.",
    "Be brief.",
    "Be exact.",
    "You are a patient teacher.",
    "Answer in the form asked for.",
    "You are an expert.",
)
"""None of them changes what a right answer is: an assistant must be as good under each (report, factory 8)."""


class ConversationsConfig(StageConfig):
    """Prompts a family and split, and the quality of the teacher."""

    families: tuple[str, ...] = Field(tuple(FAMILIES), description="task families of components/sft/tasks.py")
    sft_per_family: int = Field(600, ge=1)
    preference_per_family: int = Field(100, ge=1)
    rl_per_family: int = Field(100, ge=1)
    heldout_per_family: int = Field(40, ge=1)
    system_prompt_share: float = Field(0.8, ge=0, le=1, description="share of prompts with a system message")
    candidates: int = Field(3, ge=1, description="teacher's responses a prompt, before rejection")
    teacher_error_rate: float = Field(0.2, ge=0, lt=1, description="share of candidates with wrong content")
    teacher_misformat_rate: float = Field(0.1, ge=0, lt=1, description="share in a wrong form")
    # Where it is on, it is not part of the dump: cache keys from before it existed stay what they were.
    rejection: bool = Field(
        True, description="off: the teacher's first response, right or wrong", exclude_if=operator.truth
    )


def make_conversations(config: ConversationsConfig, inputs: Inputs, run: Run) -> Summary:
    """Write ``conversations.parquet``; the effect is the teacher's correctness before and after rejection."""
    from components.data.contamination import contaminates

    if unknown := sorted(set(config.families) - set(FAMILIES)):
        raise StageError(f"conversations.families: no family {unknown[0]!r}; there are {', '.join(FAMILIES)}")
    sizes: dict[Split, int] = {
        "heldout": config.heldout_per_family, "rl": config.rl_per_family,
        "preference": config.preference_per_family, "sft": config.sft_per_family,
    }  # fmt: skip
    conversations: list[Conversation] = []
    seen: set[str] = set()
    drawn = correct = unanswered = contaminated = 0
    with run.progress(len(config.families), "conversations", unit="family") as bar:
        for family in config.families:
            rng = random.Random(f"{run.seed}-conversations-{family}")
            problems = _distinct(family, rng, seen)
            heldout: list[list[str]] = []
            for split, count in sizes.items():
                for index in range(count):
                    problem, words = next(problems)
                    while split != "heldout" and any(contaminates(words, other) for other in heldout):
                        contaminated += 1
                        problem, words = next(problems)
                    if split == "heldout":
                        heldout.append(words)
                    messages = _with_system(problem, rng, config.system_prompt_share)
                    if split == "sft":
                        candidates = [_candidate(problem, rng, config) for _ in range(config.candidates)]
                        accepted = [text for text in candidates if verify(problem, text).correct]
                        drawn, correct = drawn + len(candidates), correct + len(accepted)
                        if config.rejection and not accepted:
                            unanswered += 1
                            continue
                        response = (accepted if config.rejection else candidates)[0]
                        messages = [*messages, {"role": "assistant", "content": response}]
                    meta = {"domain": DOMAINS[family], "content": problem.content}
                    identifier = f"{split}-{family}-{index:05d}"
                    conversations.append(Conversation(identifier, split, family, messages, problem.answer, meta))
            bar.advance()
    lengths = _token_lengths(conversations, inputs)
    conversations.sort(key=lambda c: c.split)  # stable: by split, then family
    write_conversations(run.output, conversations)
    kept = [c for c in conversations if c.split == "sft"]
    kept_correct = sum(verify((c.task, c.answer), c.messages[-1]["content"]).correct for c in kept)
    return {
        "conversations": {
            split: sum(c.split == split for c in conversations) for split in ("sft", "preference", "rl", "heldout")
        },
        "families": {family: DOMAINS[family] for family in config.families},
        "candidates": drawn,
        "rejected": drawn - correct,
        "unanswered": unanswered,
        "contaminated": contaminated,
        **lengths,
        "effects": [
            effect("correct SFT responses", kept_correct / max(1, len(kept)), correct / max(1, drawn),
                   note="after rejection sampling, before it"),
        ],
    }  # fmt: skip


def _distinct(family: str, rng: random.Random, seen: set[str]) -> Iterator[tuple[Problem, list[str]]]:
    """Problems of the family whose content is new to every split, with the words of that content."""
    from components.data.words import comparable_words

    misses = 0
    while True:
        problem = generate(family, rng)
        key = f"{family}\0{' '.join(problem.content.lower().split())}"
        if key in seen:
            misses += 1
            if misses > 10_000:
                raise StageError(f"conversations: family {family} has too few distinct problems; ask for fewer")
            continue
        misses = 0
        seen.add(key)
        yield problem, comparable_words(problem.content)


def _with_system(problem: Problem, rng: random.Random, share: float) -> list[dict[str, str]]:
    if rng.random() >= share:
        return problem.messages
    return [{"role": "system", "content": rng.choice(SYSTEM_PROMPTS)}, *problem.messages]


def _candidate(problem: Problem, rng: random.Random, config: ConversationsConfig) -> str:
    """What the teacher writes: right, wrong or in the wrong form, at the configured rates."""
    luck = rng.random()
    if luck < config.teacher_error_rate:
        return mistake(problem, rng)
    text = solution(problem, rng)
    return misformat(text, rng) if luck < config.teacher_error_rate + config.teacher_misformat_rate else text


def _token_lengths(conversations: list[Conversation], inputs: Inputs) -> dict[str, int]:
    """Longest rendered conversation and all tokens of the SFT split."""
    from model.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(inputs["tokenizer"].path)
    lengths = [len(tokenizer.render_chat(c.messages, add_generation_prompt=False)) for c in conversations]
    sft = [n for n, c in zip(lengths, conversations, strict=True) if c.split == "sft"]
    return {"longest_tokens": max(lengths), "sft_tokens": sum(sft)}
