"""What the claims take, counted before anything is run: FLOPs of what they train and the answers that they sample.

A part that several claims ask for (the same fine-tuning) is made once, and counted with the first of them. Seconds are
FLOPs over what small models reach on two cores; both constants are read off a pocket run's report card.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from components.claims.claim import Claim
from components.claims.data import CorporaConfig, small_model
from components.claims.long_context import ExtensionConfig, LongConfig, SparseConfig
from components.claims.preference import DPOClaim, GRPOClaim, MergingClaim
from components.claims.pretraining import PredictionConfig, TrainingsConfig
from components.claims.rewards import RewardClaim
from components.claims.sft import TellingConfig, TwoStageConfig, VerificationConfig
from components.preference.dpo import DPOConfig
from components.preference.grpo import GRPOConfig
from components.sft.conversations import ConversationsConfig
from model.config import ModelConfig

UTILISATION = 0.29
"""Of the matrix-product ceiling, by models of pocket's size (benchmarks/results/2026-11-25-pocket-report.md, costs)."""
ANSWERS_PER_SECOND = 900.0
"""Sampled and judged, by a model of pocket's size on two cores (18,000 of stage ``pairs`` in 19 s there)."""
MEAN_TURN = 73
"""Tokens of a conversation with its answer (435,640 of stage ``sft`` for 6,000)."""
CORPUS_SECONDS = 3.0
"""Drawing a corpus of a claim and writing its tokens."""


@dataclass(frozen=True)
class Part:
    """``key``: equal for parts that are made once for several claims, "" for a claim's own. ``flops`` of training and
    reading, ``answers`` that are sampled."""

    key: str
    flops: float = 0.0
    answers: float = 0.0
    seconds: float = 0.0

    def time(self, flops_per_second: float) -> float:
        return self.flops / flops_per_second + self.answers / ANSWERS_PER_SECOND + self.seconds


@dataclass(frozen=True)
class Scale:
    """Of the recipe that the claims start from."""

    model: ModelConfig
    conversations: ConversationsConfig
    pairs_per_prompt: int

    @property
    def families(self) -> int:
        return len(self.conversations.families)

    def train(self, tokens: float, length: int, model: ModelConfig | None = None) -> float:
        return tokens * (model or self.model).training_flops_per_token(length)

    def read(self, tokens: float, length: int) -> float:
        return tokens * self.model.forward_flops_per_token(length)


def parts(claim: Claim, scale: Scale) -> list[Part]:
    """Of one seed. TypeError for a claim of a kind that is not counted here."""
    for kind, count in COUNTS.items():  # subclasses stand before their bases
        if isinstance(claim.config, kind):
            return list(count(claim.config, scale))
    raise TypeError(f"{claim.id}: no rule to count {type(claim.config).__name__}")


def plan(claims: Sequence[Claim], scale: Scale, flops_per_second: float) -> list[tuple[Claim, float, float]]:
    """(claim, FLOPs, seconds) of one seed each, shared parts with the first claim that has them."""
    seen: set[str] = set()
    rows = []
    for claim in claims:
        new = []
        for part in parts(claim, scale):
            if not part.key or part.key not in seen:
                new.append(part)
                seen.add(part.key)
        rows.append((claim, sum(p.flops for p in new), sum(p.time(flops_per_second) for p in new)))
    return rows


# ---- rules ----------------------------------------------------------------------------------------------


def _corpora(config: CorporaConfig, scale: Scale) -> Iterator[Part]:
    for corpus, tokens in zip(config.corpora, config.tokens, strict=True):
        made = small_model(config, tokens, scale.model.vocab_size)
        flops = scale.train(tokens, config.sequence_length, made.model)
        yield Part(f"corpus {corpus.model_dump_json()} {made.model_dump_json()}", flops, seconds=CORPUS_SECONDS)
        yield Part(f"text {corpus.model_dump_json()} {config.test}", seconds=CORPUS_SECONDS)


def _trainings(config: TrainingsConfig, scale: Scale) -> Iterator[Part]:
    for side in (config.treated, config.baseline):
        flops = scale.train(side.tokens, side.sequence_length, side.model)
        yield Part(f"pretrain {side.model_dump_json()}", flops, seconds=2 * CORPUS_SECONDS)


def _prediction(config: PredictionConfig, scale: Scale) -> Iterator[Part]:
    for shape in config.scaling.shapes:
        model = ModelConfig(
            vocab_size=scale.model.vocab_size, max_position_embeddings=config.scaling.sequence_length,
            tie_word_embeddings=True, **shape.model_dump(),
        )  # fmt: skip
        for tokens in config.tokens:
            flops = scale.train(tokens, config.scaling.sequence_length, model)
            yield Part(f"trial {shape.model_dump_json()} {tokens}", flops)


def _long(config: LongConfig, scale: Scale) -> Iterator[Part]:
    trained = scale.model.max_position_embeddings * (1 if config.start == "pretrain" else 4)
    length = config.factor * trained
    # Both sides read every key's text at both lengths, and the short documents.
    flops = 2 * config.keys * (scale.read(length, length) + scale.read(trained, trained))
    yield Part("", flops, seconds=CORPUS_SECONDS)


def _sparse(config: SparseConfig, scale: Scale) -> Iterator[Part]:
    length = config.factor * scale.model.max_position_embeddings * 4
    # Three readings of every key's text; the search for budgets costs about as much as sixteen more of one text.
    yield Part("", scale.read(length, length) * (3 * config.keys + 16), seconds=2 * CORPUS_SECONDS)


def _extension(config: ExtensionConfig, scale: Scale) -> Iterator[Part]:
    for side in (config.treated, config.baseline):
        yield Part(f"extend {side.model_dump_json()}", scale.train(side.tokens, side.sequence_length))
    yield from _long(config, scale)


def _verification(config: VerificationConfig, scale: Scale) -> Iterator[Part]:
    count = config.per_family * len(config.families)
    sides = ["verified", "unverified", *(["instead"] if config.instead else [])]
    for side in sides:
        training = f"{config.training.model_dump_json()} {config.per_family} {config.families}"
        yield _fine_tuning(f"{side} {training} {config.instead if side == 'instead' else ''}", count, scale)
        yield Part(f"ask {side} {config.asked}", answers=config.heldout * len(config.asked))


def _telling(config: TellingConfig, scale: Scale) -> Iterator[Part]:
    count = config.per_family * scale.families
    asked = config.heldout * (len(config.asked) or scale.families) * max(1, len(config.prompts))
    for side in (config.treated, config.baseline):
        yield _fine_tuning(f"{side} {config.training.model_dump_json()} {config.per_family}", count, scale)
        yield Part(f"ask {side} {config.asked} {config.prompts}", answers=asked)


def _two_stages(config: TwoStageConfig, scale: Scale) -> Iterator[Part]:
    length, count = config.training.sequence_length, config.per_family * scale.families
    long = config.characters / 3  # characters a token
    for side, share in (("short and long", 0.5), ("long", 1.0)):
        yield Part(f"two stages {side}", scale.train(count * (MEAN_TURN + share * long), length))
    asked = config.heldout * scale.families
    yield Part("", 3 * scale.read(asked * long, length), answers=3 * 2 * asked)


def _fine_tuning(key: str, conversations: int, scale: Scale) -> Part:
    return Part(f"sft {key}", scale.train(conversations * MEAN_TURN, MEAN_TURN), seconds=CORPUS_SECONDS)


def _dpo_training(config: DPOConfig, scale: Scale) -> Part:
    pairs = scale.families * scale.conversations.preference_per_family * scale.pairs_per_prompt
    tokens = 2 * pairs * MEAN_TURN
    flops = scale.train(config.epochs * tokens, MEAN_TURN) + scale.read(tokens, MEAN_TURN)
    return Part(f"dpo {config.model_dump_json()}", flops)


def _dpo(config: DPOClaim, scale: Scale) -> Iterator[Part]:
    yield _dpo_training(config.training, scale)
    if config.without is not None:
        yield _dpo_training(config.without, scale)
    asked = config.heldout * scale.families * config.samples
    yield Part("", answers=2 * asked)


def _merging(config: MergingClaim, scale: Scale) -> Iterator[Part]:
    yield from _dpo(config, scale)
    yield Part("", scale.read(2 * config.answers * scale.families * MEAN_TURN, MEAN_TURN), seconds=CORPUS_SECONDS)


def _grpo_training(config: GRPOConfig, scale: Scale) -> Part:
    rollouts = -(-config.steps // config.updates_per_rollout)
    written = rollouts * config.queries_per_rollout * config.group_size
    ordering = scale.families * scale.conversations.rl_per_family * config.scoring_samples
    watched = 2 * config.evaluation_prompts * config.evaluation_samples
    flops = scale.train(written * MEAN_TURN, MEAN_TURN) + scale.read(2 * written * MEAN_TURN, MEAN_TURN)
    return Part(f"grpo {config.model_dump_json()}", flops, written + ordering + watched)


def _grpo(config: GRPOClaim, scale: Scale) -> Iterator[Part]:
    yield _grpo_training(config.training, scale)
    if config.without is not None:
        yield _grpo_training(config.without, scale)
    asked = config.heldout * scale.families * config.samples
    read = scale.read(2 * asked * config.characters / 3, MEAN_TURN)
    yield Part("", read, answers=2 * asked)


def _rewards(config: RewardClaim, scale: Scale) -> Iterator[Part]:
    pairs = scale.families * scale.conversations.preference_per_family * scale.pairs_per_prompt
    tokens = 2 * pairs * MEAN_TURN * config.training.epochs
    for kind in ("form", "content"):
        yield Part(f"reward {kind}", scale.train(tokens, MEAN_TURN))
    asked = config.heldout * scale.families * config.answers
    yield Part("", scale.read(2 * asked * MEAN_TURN, MEAN_TURN), answers=asked)


COUNTS: dict[type, Callable[[Any, Scale], Iterator[Part]]] = {
    CorporaConfig: _corpora, TrainingsConfig: _trainings, PredictionConfig: _prediction, ExtensionConfig: _extension,
    SparseConfig: _sparse, LongConfig: _long, VerificationConfig: _verification, TellingConfig: _telling,
    TwoStageConfig: _two_stages, MergingClaim: _merging, DPOClaim: _dpo, GRPOClaim: _grpo, RewardClaim: _rewards,
}  # fmt: skip

__all__ = ["UTILISATION", "Part", "Scale", "parts", "plan"]
