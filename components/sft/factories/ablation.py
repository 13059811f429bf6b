"""Leaving one factory out: does a model that is trained without it do worse at what this factory teaches?

Three stages, which ``qwenforge ablate-factories`` chains: ``write_pools`` makes records that the factories' checks
accept, and held-out ones from other sources; ``compose`` takes equal tokens of all factories, or of all but one;
``measure`` asks a checkpoint the held-out prompts. Two measurements are taken of each: whether the factory's own check
accepts the greedy answer, and the nats that a token of the reference answer takes.
"""

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from components.sft.conversation_store import Conversation, read_conversations, write_conversations
from components.sft.factories.build import FACTORIES, load
from components.sft.factories.factory import Candidate, Factory
from components.sft.factories.held_out import BATCH, MOST_DRAWN, accepted, answered, hold_out, reasons, record
from components.sft.fine_tune import SFTConfig
from components.stage import Inputs, Run, StageConfig, StageError, Summary

if TYPE_CHECKING:
    from model.tokenizer import Tokenizer

SCORES = "scores.json"


class FactoryAblationConfig(StageConfig):
    """Size of ``qwenforge ablate-factories``; ``training`` is pocket's."""

    tokens: int = Field(750_000, ge=1, description="tokens of conversations that every model is trained on")
    held_out: int = Field(80, ge=2, description="held-out prompts of each factory")
    seeds: int = Field(3, ge=1, description="models of each kind")
    training: SFTConfig = SFTConfig(
        optimizer="muon", learning_rate=4e-3, final_learning_rate_ratio=0.05, warmup_ratio=0.05, beta2=0.98, epochs=1,
        sequence_length=512, batch_size=4, evaluation_prompts=1, max_new_tokens=16, checkpoint_every=100,
    )  # fmt: skip


class PoolsConfig(StageConfig):
    """How much is written of each factory."""

    version: Literal[1] = Field(1, description="raised where the factories would write something else")
    tokens: int = Field(ge=1, description="of the records of one factory")
    held_out: int = Field(ge=1)
    longest: int = Field(ge=16, description="tokens; longer records are left out")


class ComposeConfig(StageConfig):
    """Which factory is left out, if any."""

    left_out: str = ""
    tokens: int = Field(ge=1, description="of all records together")


class MeasureConfig(StageConfig):
    """Whose held-out prompts are asked."""

    factory: str


def write_pools(config: PoolsConfig, inputs: Inputs, run: Run) -> Summary:
    """Records of every factory in the splits ``sft`` and ``heldout``; input ``tokenizer`` counts their tokens.

    What a held-out record is made from (a document, an instruction to program, a prompt) no other record is.
    """
    from model.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(inputs["tokenizer"].path)
    conversations: list[Conversation] = []
    with run.progress(len(FACTORIES), "factories", unit="factory") as bar:
        for name in FACTORIES:
            written = _pool(load(name), config, run.seed, tokenizer)
            conversations += written
            bar.advance(factory=name)
    write_conversations(run.output, conversations)
    return {"records": len(conversations), "held_out": len(FACTORIES) * config.held_out}


def _pool(factory: Factory, config: PoolsConfig, seed: int, tokenizer: "Tokenizer") -> list[Conversation]:
    """Held-out records first, then others until the tokens are there."""
    rng = random.Random(f"{seed}-ablation-{factory.name}")
    candidates = accepted(factory, rng)
    held_out = hold_out(factory, candidates, config.held_out, lambda c: _size(c, tokenizer) <= config.longest)
    taken = {answered(c, "").source for c in held_out}
    seen: set[str] = set()
    kept: list[Conversation] = []
    tokens = since = 0
    while tokens < config.tokens:
        candidate, since = next(candidates), since + 1
        if since > MOST_DRAWN * BATCH:
            raise StageError(
                f"factory {factory.name}: {len(kept)} different records of {tokens:,} tokens are all that it has; "
                f"{config.tokens:,} are wanted: lower factory_ablation.tokens"
            )
        prompt = json.dumps(candidate.messages)
        if candidate.source in taken or prompt in seen:
            continue
        seen.add(prompt)
        if (size := _size(candidate, tokenizer)) <= config.longest:
            written = record("sft", factory, candidate, len(kept))
            kept.append(replace(written, meta=written.meta | {"tokens": size}))
            tokens, since = tokens + size, 0
    return [*held_out, *kept]


def _size(candidate: Candidate, tokenizer: "Tokenizer") -> int:
    """Tokens of the conversation with its response."""
    messages = [*candidate.messages, {"role": "assistant", "content": candidate.response}]
    return len(tokenizer.render_chat(messages, add_generation_prompt=False))


def compose(config: ComposeConfig, inputs: Inputs, run: Run) -> Summary:
    """As many tokens of each factory as make ``tokens`` together, in an order that the seed draws.

    Input ``pools``; ``conversations`` lends the held-out prompts without which SFT does not start.
    """
    members = [name for name in FACTORIES if name != config.left_out]
    budget = config.tokens / len(members)
    by_factory: dict[str, list[Conversation]] = {name: [] for name in members}
    spent = dict.fromkeys(members, 0)
    for one in read_conversations(inputs["pools"], "sft"):
        if one.task in spent and spent[one.task] < budget:
            by_factory[one.task].append(one)
            spent[one.task] += one.meta["tokens"]
    chosen = [replace(one, meta={}) for records in by_factory.values() for one in records]
    random.Random(f"{run.seed}-compose").shuffle(chosen)
    prompts = read_conversations(inputs["conversations"], "heldout")[:1]
    write_conversations(run.output, [*chosen, *prompts])
    return {"left_out": config.left_out, "records": len(chosen), "tokens": sum(spent.values())}


def measure(config: MeasureConfig, inputs: Inputs, run: Run) -> Summary:
    """Answers of ``checkpoint`` to the held-out prompts of one factory in ``pools``, item by item in ``scores.json``:
    why its check rejects each greedy answer ("" where it accepts), and nats and tokens of the reference answers."""
    from components.claims.measuring import response_nats
    from components.sft.sampling import sample_answers
    from model.checkpoint import load_model
    from model.tokenizer import Tokenizer

    folder = inputs["checkpoint"].path
    model, tokenizer = load_model(folder, run.device).eval(), Tokenizer.load(folder)
    own = [record for record in read_conversations(inputs["pools"], "heldout") if record.task == config.factory]
    nats, tokens = response_nats(folder, own, run.device)
    answers = sample_answers(
        model, tokenizer, [record.prompt for record in own], temperature=0.0,
        max_new_tokens=int(1.25 * tokens.max()), seed=run.seed,
    )  # fmt: skip
    found = reasons(load(config.factory), own, [answer for (answer,) in answers])
    scores = {"reasons": found, "nats": nats.tolist(), "tokens": tokens.tolist()}
    (run.output / SCORES).write_text(json.dumps(scores), encoding="utf-8")
    return {"accepted": found.count("") / len(found), "nats_per_token": float(nats.sum() / tokens.sum())}


@dataclass(frozen=True)
class OwnMetric:
    """What decides whether a factory was missed: the share of greedy answers that its check accepts, ``forgiven``
    reasons aside, or the nats that a token of the reference answers takes."""

    name: str
    forgiven: tuple[str, ...] = ()
    nats: bool = False

    def values(self, scores: Mapping[str, Any]) -> tuple[list[float], list[float]]:
        """Numerators and denominators of the items."""
        if self.nats:
            return scores["nats"], scores["tokens"]
        kept = [float(not reason or reason in self.forgiven) for reason in scores["reasons"]]
        return kept, [1.0] * len(kept)


CHECKED = "accepted"
NATS = "nats"
OWN_METRICS = {
    # A million parameters neither calculate nor write programs or manuals that hold: what they have learnt of these
    # shows in how likely a right answer is to them.
    "long_generation": OwnMetric(NATS, nats=True), "mathematics": OwnMetric(NATS, nats=True),
    "coding": OwnMetric(NATS, nats=True), "instructions": OwnMetric(CHECKED), "structured": OwnMetric(NATS, nats=True),
    "logic": OwnMetric(NATS, nats=True),
    "cross_lingual": OwnMetric("language", forgiven=("numbers differ",)),
    "system_prompts": OwnMetric("form", forgiven=("wrong answer", "flawed step")),
    "filtering": OwnMetric(NATS, nats=True),
}  # fmt: skip


def compare(whole: Sequence[Mapping[str, Any]], without: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row a factory from the scores of each seed, ``{factory: scores}``: of models with all, and of those without it.

    ``difference`` is what leaving it out does to its metric, with its 95% interval; ``lowered``: it is worse, and the
    interval excludes zero. Several seeds: over items and seeds (``paired_difference_over_seeds``); one: a bootstrap
    over items.
    """
    import numpy as np

    from components.evaluation.statistics import paired_difference, paired_difference_over_seeds

    rows = []
    for name in without[0]:
        metric = OWN_METRICS[name]
        (one, weights), (two, _) = (
            tuple(np.array(part) for part in zip(*(metric.values(scores[name]) for scores in side), strict=True))
            for side in (whole, without)
        )
        gap = (
            paired_difference_over_seeds(two, one, weights[0]) if len(one) > 1
            else paired_difference(two[0], one[0], weights=weights[0] if metric.nats else None)
        )  # fmt: skip
        total = weights.sum()
        rows.append(
            {
                "factory": name, "metric": metric.name, "better": "lower" if metric.nats else "higher",
                "whole": float(one.sum() / total), "without": float(two.sum() / total),
                "difference": gap.value, "low": gap.low, "high": gap.high,
                "lowered": bool(gap.low > 0 if metric.nats else gap.high < 0),
                "nats": [_nats(scores[name] for scores in side) for side in (whole, without)],
                "accepted": [_accepted_share(scores[name] for scores in side) for side in (whole, without)],
            }
        )  # fmt: skip
    return rows


def _nats(scores: Iterable[Mapping[str, Any]]) -> float:
    """A token of the reference answers, over all seeds."""
    sums = [(sum(one["nats"]), sum(one["tokens"])) for one in scores]
    return sum(nats for nats, _ in sums) / sum(tokens for _, tokens in sums)


def _accepted_share(scores: Iterable[Mapping[str, Any]]) -> float:
    """Of the greedy answers, over all seeds."""
    reasons = [reason for one in scores for reason in one["reasons"]]
    return reasons.count("") / len(reasons)
