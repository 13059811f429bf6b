"""Learning from preferences and from rewards (report, sections 4.2 to 4.4)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from components.claims.claim import Bench, Claim, Contrast, Measured, Scores
from components.evaluation.held_out import HeldOutConfig
from components.preference.dpo import DPOConfig
from components.preference.grpo import GRPOConfig
from components.stage import StageConfig

if TYPE_CHECKING:
    from components.sft.conversation_store import Conversation
    from components.stage import Artifact

SAMPLED = "verified answers, sampled"


class AnswersConfig(StageConfig):
    """What policies are asked."""

    heldout: int = Field(80, ge=1, description="held-out prompts of a family")
    samples: int = Field(4, ge=2, description="answers to each, at temperature 1")


def asked(bench: Bench, each: int) -> "list[Conversation]":
    """Held-out conversations of every family of the recipe."""
    from components.claims.measuring import of_families
    from components.sft.conversation_store import read_conversations

    heldout = read_conversations(bench.inputs["conversations"], "heldout")
    return of_families(heldout, sorted({c.task for c in heldout}), each)


def pass_rates(
    bench: Bench, config: AnswersConfig, policies: "Sequence[Artifact]", questions: "Sequence[Conversation]"
) -> Scores:
    """Share of right answers to each question by two policies, with the same random numbers."""
    from components.claims.measuring import right

    run = bench.run
    return Scores.of(*(right(p.path, questions, run.device, run.seed, samples=config.samples) for p in policies))


# -- direct preference optimisation -----------------------------------------------------------------------------

DPO = DPOConfig(
    epochs=1, learning_rate=3e-4, chosen_coefficient=1.0, sequence_length=256, batch_size=16
)  # fmt: skip


class DPOClaim(AnswersConfig):
    """Preference optimisation from the SFT checkpoint on the recipe's pairs."""

    training: DPOConfig = DPO
    without: DPOConfig | None = Field(None, description="the other side's training; None: the SFT checkpoint itself")


def aligned(bench: Bench, config: DPOConfig) -> "Artifact":
    """What DPO makes of the SFT checkpoint."""
    from components.preference.dpo import train_dpo

    inputs = {"policy": bench.inputs["sft"], "base": bench.inputs["extend"], "pairs": bench.inputs["pairs"]}
    return bench.make(train_dpo, "checkpoint", config, inputs)


def dpo(config: DPOClaim, bench: Bench) -> Measured:
    """Sampled answers after DPO and before it."""
    policies = aligned(bench, config.training), bench.inputs["sft"]
    return {SAMPLED: pass_rates(bench, config, policies, asked(bench, config.heldout))}


TAX = "nats a token of the fine-tuning data's own answers, unseen ones"
GAIN = "verified answers, sampled, with merging and without"


class MergingClaim(DPOClaim):
    """DPO with online merging and without it."""

    training: DPOConfig = DPO.model_copy(update={"merging_alpha": 1e-3})
    without: DPOConfig | None = DPO.model_copy(update={"merging": "none"})
    answers: int = Field(100, ge=1, description="reference answers of a family, to fresh prompts")


def merging(config: MergingClaim, bench: Bench) -> Measured:
    """What alignment costs of what SFT had taught, and what it gains, with merging and without."""
    from components.claims.measuring import response_nats
    from components.sft.conversation_store import read_conversations
    from components.sft.conversations import ConversationsConfig, make_conversations

    assert config.without is not None
    policies = aligned(bench, config.training), aligned(bench, config.without)
    questions = asked(bench, config.heldout)
    fresh = ConversationsConfig(
        families=tuple(sorted({c.task for c in questions})), sft_per_family=config.answers, preference_per_family=1,
        rl_per_family=1, heldout_per_family=1,
    )  # fmt: skip
    taught = read_conversations(
        bench.make(make_conversations, "conversations", fresh, {"tokenizer": bench.inputs["sft"]}), "sft"
    )
    # A conversation without an accepted answer is missing, in numbers that differ by seed.
    taught = taught[: config.answers * len(fresh.families) * 9 // 10]
    (treated, tokens), (baseline, _) = (response_nats(p.path, taught, bench.run.device) for p in policies)
    return {
        TAX: Scores.of(treated, baseline, tokens),
        GAIN: pass_rates(bench, config, policies, questions),
    }


BASE_TAX = "bits per byte of the base model's own held-out text"
RANKED = "held-out pairs that the implicit reward ranks right, with merging and without"


class BaseAbilityClaim(MergingClaim):
    """DPO with online merging and without it, on what the base model had learnt."""

    texts: HeldOutConfig = HeldOutConfig()


def base_ability(config: BaseAbilityClaim, bench: Bench) -> Measured:
    """What alignment costs of pre-training, with merging and without, at what reward."""
    from components.claims import measuring
    from components.data.shard_reader import ShardReader
    from model.checkpoint import load_model

    assert config.without is not None
    policies = aligned(bench, config.training), aligned(bench, config.without)
    documents = measuring.texts(bench.inputs["shards"], bench.inputs["sft"].path, config.texts)
    eos_id = ShardReader(bench.inputs["shards"]).eos_id
    models = [load_model(policy.path, bench.run.device).eval() for policy in policies]
    treated, baseline = (
        measuring.bits(model, documents, eos_id, model.config.max_position_embeddings) for model in models
    )
    return {
        BASE_TAX: Scores.of(treated, baseline, (document.bytes for document in documents)),
        RANKED: Scores.of(*(implicit_ranks(bench, policy) for policy in policies)),
        GAIN: pass_rates(bench, config, policies, asked(bench, config.heldout)),
    }


def implicit_ranks(bench: Bench, policy: "Artifact") -> list[float]:
    """Whether DPO's implicit reward (how much likelier than under the SFT checkpoint) ranks a held-out pair right."""
    from components.claims.measuring import response_nats
    from components.preference.pair_store import read_pairs
    from components.sft.conversation_store import Conversation

    talks = [
        Conversation(pair.id, "heldout", pair.task, pair.conversation(side), None, {})
        for side in ("chosen", "rejected")
        for pair in read_pairs(bench.inputs["pairs"], "heldout")
    ]
    (before, _), (after, _) = (response_nats(p.path, talks, bench.run.device) for p in (bench.inputs["sft"], policy))
    chosen, rejected = (before - after).reshape(2, -1)
    return [float(better) for better in chosen > rejected]


# -- group relative policy optimisation -------------------------------------------------------------------------

GRPO = GRPOConfig(
    learning_rate=2e-4, sequence_length=256, steps=40, queries_per_rollout=32, dynamic_sampling=True,
    advantage_scaling="none", reward_model_weight=0.05, evaluate_every=1_000, evaluation_prompts=6,
    evaluation_samples=1,
)  # fmt: skip


class GRPOClaim(AnswersConfig):
    """Reinforcement from the DPO checkpoint with the recipe's reward model."""

    training: GRPOConfig = GRPO
    without: GRPOConfig | None = Field(None, description="the other side's training; None: the DPO checkpoint itself")
    characters: int = Field(0, ge=0, description="of a text before every question; 0: none")
    heldout: int = Field(160, ge=1, description="held-out prompts of a family")


def grpo(config: GRPOClaim, bench: Bench) -> Measured:
    """Sampled answers after GRPO against those of the other side."""
    from components.preference.grpo import train_grpo

    def reinforced(training: GRPOConfig) -> "Artifact":
        inputs = {
            "policy": bench.inputs["dpo"], "reward": bench.inputs["reward"],
            "conversations": bench.inputs["conversations"],
        }  # fmt: skip
        return bench.make(train_grpo, "checkpoint", training, inputs)

    other = bench.inputs["dpo"] if config.without is None else reinforced(config.without)
    questions = asked(bench, config.heldout)
    if config.characters:
        from components.claims.rewriting import long_questions

        questions = long_questions(bench.inputs, questions, config.characters)
    return {SAMPLED: pass_rates(bench, config, (reinforced(config.training), other), questions)}


FASTER = GRPO.model_copy(update={"steps": 12, "dynamic_sampling": False})

CLAIMS = (
    Claim(
        "dpo", "preference", "DPO after SFT lifts objective tasks", "4.2",
        "the SFT checkpoint aligned on verified pairs of its own answers, against itself",
        ("sft", "extend", "pairs", "conversations"), DPOClaim(), dpo, (Contrast(SAMPLED),),
    ),
    Claim(
        "online-merging", "preference", "The online merging optimizer lowers the alignment tax", "4.2",
        "the same DPO with OnDARE and without; the tax is what the policy loses on what SFT had taught: the likelihood "
        "of the teacher's verified answers to fresh prompts",
        ("sft", "extend", "pairs", "conversations"), MergingClaim(), merging,
        (Contrast(TAX, "nats", "lower"), Contrast(GAIN, margin=0.02)),
    ),
    Claim(
        "online-merging-base", "preference", "The online merging optimizer keeps more of the base model's ability",
        "4.2",
        "the same DPO with OnDARE and without, at equal reward: pairs ranked right and verified answers no worse",
        ("sft", "extend", "pairs", "conversations", "shards"), BaseAbilityClaim(), base_ability,
        (Contrast(BASE_TAX, "bits/byte", "lower"), Contrast(RANKED, margin=0.02), Contrast(GAIN, margin=0.02)),
    ),
    Claim(
        "grpo", "preference", "GRPO lifts objective tasks beyond DPO", "4.3",
        "the DPO checkpoint reinforced for 40 updates with verified and learnt rewards, against itself",
        ("dpo", "reward", "conversations"), GRPOClaim(), grpo, (Contrast(SAMPLED),),
    ),
    Claim(
        "variance-order", "preference", "Queries in order of their reward's variance are learnt from faster", "4.3",
        "12 updates of GRPO on queries in that order and on the same queries shuffled",
        ("dpo", "reward", "conversations"),
        GRPOClaim(training=FASTER, without=FASTER.model_copy(update={"query_order": "random"})), grpo,
        (Contrast(SAMPLED),),
    ),
    Claim(
        "short-rl-long", "preference", "Reinforcement on short instructions helps long ones", "4.4",
        "the policy of claim grpo, which saw no long instruction, against the DPO checkpoint: questions behind a text "
        "of 1,500 characters",
        ("dpo", "reward", "conversations", "shards", "sft"), GRPOClaim(characters=1_500, heldout=40), grpo,
        (Contrast(SAMPLED),),
    ),
)  # fmt: skip
