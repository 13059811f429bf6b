"""Supervised fine-tuning (report, section 4.1): what the care taken with the data is worth."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from components.claims.claim import Bench, Claim, Contrast, Measured, Scores
from components.claims.rewriting import RewriteConfig, Telling
from components.sft.conversations import SYSTEM_PROMPTS, ConversationsConfig
from components.sft.fine_tune import SFTConfig
from components.stage import StageConfig

if TYPE_CHECKING:
    from components.sft.conversation_store import Conversation
    from components.stage import Artifact

TRAINING = SFTConfig(
    optimizer="muon", learning_rate=4e-3, final_learning_rate_ratio=0.05, warmup_ratio=0.05, beta2=0.98, epochs=1,
    sequence_length=256, batch_size=8, evaluation_prompts=6,
)  # fmt: skip
INSTRUCTIONS = ("json", "repeat", "tagged")
OTHERS = ("ordering", "python", "table")
RIGHT = "verified answers, greedy"


# -- verified answers -------------------------------------------------------------------------------------------


class VerificationConfig(StageConfig):
    """Which families are asked, and how many examples of each."""

    families: tuple[str, ...] = (*INSTRUCTIONS, *OTHERS)
    asked: tuple[str, ...] = Field((*INSTRUCTIONS, *OTHERS), description="families that are measured")
    instead: tuple[str, ...] = Field((), description="families of the side without the asked ones; empty: no such side")
    per_family: int = Field(1_000, ge=1, description="as many as pocket's SFT; with half of them look-ups form by luck")
    heldout: int = Field(60, ge=1, description="held-out prompts of a family")
    training: SFTConfig = TRAINING


UNVERIFIED = "verified answers, against the same prompts with unverified responses"
ABSENT = "verified answers, against as many examples of other tasks"


def verification(config: VerificationConfig, bench: Bench) -> Measured:
    """Fine-tune on accepted responses, on the teacher's first ones, and on other tasks alone."""
    from components.sft.conversation_store import read_conversations
    from components.sft.conversations import make_conversations

    def conversations(families: Sequence[str], rejection: bool) -> "Artifact":
        settings = ConversationsConfig(
            families=tuple(families), rejection=rejection, preference_per_family=1, rl_per_family=1,
            sft_per_family=config.per_family * len(config.families) // len(families),
            heldout_per_family=config.heldout,
        )  # fmt: skip
        return bench.make(make_conversations, "conversations", settings, {"tokenizer": bench.inputs["tokenizer"]})

    verified = conversations(config.families, True)
    asked = [c for c in read_conversations(verified, "heldout") if c.task in config.asked]
    treated = answers(bench, config.training, verified, asked)
    found = {
        UNVERIFIED: Scores.of(
            treated, answers(bench, config.training, conversations(config.families, False), asked)
        )
    }  # fmt: skip
    if config.instead:
        found[ABSENT] = Scores.of(
            treated, answers(bench, config.training, conversations(config.instead, True), asked)
        )  # fmt: skip
    return found


def answers(
    bench: Bench, training: SFTConfig, conversations: "Artifact", asked: "Sequence[Conversation]", start: str = "extend"
) -> list[float]:
    """Fine-tune the checkpoint of ``start``; which of ``asked`` it answers right, greedily."""
    from components.claims.measuring import right
    from components.sft.fine_tune import fine_tune

    tuned = bench.make(
        fine_tune, "checkpoint", training, {"long": bench.inputs[start], "conversations": conversations}
    )  # fmt: skip
    return right(tuned.path, asked, bench.run.device, bench.run.seed).tolist()


# -- the same conversations told in two ways --------------------------------------------------------------------


class TellingConfig(StageConfig):
    """Two ways to tell the recipe's conversations."""

    treated: Telling
    baseline: Telling
    asked: tuple[str, ...] = Field((), description="families that are measured; empty: all")
    heldout: int = Field(120, ge=1, description="held-out prompts of a family")
    prompts: tuple[str, ...] = Field((), description="system prompts that held-out questions are asked under")
    per_family: int = Field(1_000, ge=1, description="as many as pocket's SFT; with half of them look-ups form by luck")
    training: SFTConfig = TRAINING


def _told(bench: Bench, telling: Telling, per_family: int) -> "Artifact":
    from components.claims.rewriting import rewrite

    return bench.make(
        rewrite, "conversations", RewriteConfig(telling=telling, per_family=per_family),
        {"conversations": bench.inputs["conversations"]},
    )  # fmt: skip


def _asked(bench: Bench, families: Sequence[str], each: int) -> "list[Conversation]":
    from components.claims.measuring import of_families
    from components.sft.conversation_store import read_conversations

    heldout = read_conversations(bench.inputs["conversations"], "heldout")
    return of_families(heldout, families or sorted({c.task for c in heldout}), each)


def telling(config: TellingConfig, bench: Bench) -> Measured:
    """Fine-tune on both; verified answers to the asked families."""
    asked = _asked(bench, config.asked, config.heldout)
    both = (
        answers(bench, config.training, _told(bench, way, config.per_family), asked)
        for way in (config.treated, config.baseline)
    )
    return {RIGHT: Scores.of(*both)}


UNSEEN = (
    "You work at a help desk.", "You are an accountant.", "You are a strict examiner. Use plain words.",
    "You answer for a public library.", "You are a careful engineer. Stay calm and polite.",
    "Do not talk about yourself.",
)  # fmt: skip
assert not set(UNSEEN) & set(SYSTEM_PROMPTS)
VARIANCE = "variance of an answer's correctness between unseen system prompts, where both are right under one"
UNDER_UNSEEN = "verified answers under unseen system prompts"


def variance(config: TellingConfig, bench: Bench) -> Measured:
    """Ask every question under every prompt; variance of right and wrong by question.

    A question that a side never answers right does not vary at all, which would speak for the worse side: only those
    count that both answer right under one prompt at least.
    """
    import numpy as np

    from components.claims.rewriting import under_one_prompt

    asked = _asked(bench, config.asked, config.heldout)
    under = [under_one_prompt(c, prompt) for prompt in config.prompts for c in asked]
    sides = []
    for way in (config.treated, config.baseline):
        outcomes = answers(bench, config.training, _told(bench, way, config.per_family), under)
        sides.append(np.array(outcomes).reshape(len(config.prompts), len(asked)))
    known = sides[0].any(axis=0) & sides[1].any(axis=0)
    return {
        VARIANCE: Scores.of(*(side.var(axis=0) * known for side in sides)),
        UNDER_UNSEEN: Scores.of(*(side.mean(axis=0) for side in sides)),
    }


# -- long instructions in a second stage ------------------------------------------------------------------------


class TwoStageConfig(StageConfig):
    """The second stage, on long instructions alone or mixed with short ones."""

    per_family: int = Field(60, ge=1, description="conversations of a family in the second stage")
    heldout: int = Field(40, ge=1, description="held-out prompts of a family")
    characters: int = Field(1_500, ge=100, description="of the text before a long question")
    training: SFTConfig = TRAINING.model_copy(update={"sequence_length": 1024, "batch_size": 4, "learning_rate": 2e-3})


SHORT_MIXED = "verified answers to short instructions, against a second stage of long ones alone"
SHORT_KEPT = "verified answers to short instructions, against the first stage alone"
LONG_GAINED = "verified answers to long instructions, against the first stage alone"


def two_stages(config: TwoStageConfig, bench: Bench) -> Measured:
    """From the SFT checkpoint: a second stage with short and long instructions, with long ones, or none."""
    from components.claims.measuring import right
    from components.claims.rewriting import long_questions, rewrite

    short = _asked(bench, (), config.heldout)
    long = long_questions(bench.inputs, short, config.characters)
    scores: dict[str, list[float]] = {}
    for way in ("short and long", "long"):
        told = bench.make(
            rewrite, "conversations",
            RewriteConfig(telling=way, per_family=config.per_family, characters=config.characters),
            {"conversations": bench.inputs["conversations"], "shards": bench.inputs["shards"],
             "checkpoint": bench.inputs["sft"]},
        )  # fmt: skip
        scores[way] = answers(bench, config.training, told, [*short, *long], start="sft")
    first = right(bench.inputs["sft"].path, [*short, *long], bench.run.device, bench.run.seed).tolist()
    count, mixed = len(short), scores["short and long"]
    return {
        SHORT_MIXED: Scores.of(mixed[:count], scores["long"][:count]),
        SHORT_KEPT: Scores.of(mixed[:count], first[:count]),
        LONG_GAINED: Scores.of(mixed[count:], first[count:]),
    }


CLAIMS = (
    Claim(
        "rejection-sampling", "SFT", "Rejection sampling beats unfiltered SFT", "4.1",
        "the long-context checkpoint fine-tuned on a teacher's verified responses and on its first ones, of which 30% "
        "are wrong or misformatted; the same prompts",
        ("extend", "tokenizer"), VerificationConfig(), verification, (Contrast(UNVERIFIED),),
    ),
    Claim(
        "verified-instructions", "SFT", "Verified instruction data lifts strict accuracy", "4.1",
        "three families of instructions verified, unverified, and left out for more of three other families; strict "
        "accuracy: right content in exactly the demanded form",
        ("extend", "tokenizer"), VerificationConfig(asked=INSTRUCTIONS, instead=OTHERS), verification,
        (Contrast(UNVERIFIED), Contrast(ABSENT)),
    ),
    Claim(
        "reasoning-chains", "SFT", "Reasoning chains lift table questions", "4.1",
        "the same conversations with the answers' reasoning (the row of the table is quoted before its cell is named) "
        "and with their last line alone; held-out table questions",
        ("extend", "conversations"),
        TellingConfig(treated="as they are", baseline="without reasoning", asked=("table",), heldout=160), telling,
        (Contrast(RIGHT),),
    ),
    Claim(
        "system-prompts", "SFT", "Diverse system prompts lower the variance between system prompts", "4.1",
        "the same conversations under ten system prompts (and none) and under a single one; every held-out question is "
        "asked under six prompts that neither has seen",
        ("extend", "conversations"),
        TellingConfig(treated="as they are", baseline="one system prompt", heldout=30, prompts=UNSEEN), variance,
        (Contrast(VARIANCE, "variance", "lower"), Contrast(UNDER_UNSEEN, margin=0.03)), version=2,
    ),
    Claim(
        "two-stage-long-sft", "SFT", "A second stage with short and long instructions keeps short quality", "4.4",
        "the SFT checkpoint goes on with as many examples, half of them behind a text of 1,500 characters or all of "
        "them; held-out questions with and without such a text",
        ("sft", "conversations", "shards"), TwoStageConfig(), two_stages,
        (Contrast(SHORT_MIXED), Contrast(SHORT_KEPT, margin=0.05), Contrast(LONG_GAINED)),
    ),
)  # fmt: skip
