"""Reward models beside their benchmark (report, section 5): the better score need not choose the better answers.

Two reward models start from the same checkpoint. One learns from pairs that differ in form, the other from pairs that
differ in content; the benchmark asks for form, the policy (the best of several answers by the model's score) is asked
for content.
"""

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from components.claims.claim import Bench, Claim, Contrast, Measured, Scores
from components.claims.preference import asked
from components.preference.reward_model import RewardConfig
from components.stage import Inputs, Run, StageConfig, StageError, Summary

if TYPE_CHECKING:
    from components.preference.pair_store import Pair
    from components.stage import Artifact

TRAINING = RewardConfig(
    optimizer="muon", learning_rate=4e-3, final_learning_rate_ratio=0.05, epochs=3, sequence_length=256, prompts=1,
    samples=1, temperatures=(1.0,),
)  # fmt: skip
"""As pocket's: one pass of AdamW ranks no better than chance (docs/NOTES.md), and two such models choose alike."""


class PairsOfConfig(StageConfig):
    """Which pairs a reward model learns from."""

    differ_in: Literal["form", "content"]


class RewardClaim(StageConfig):
    """Both reward models, and what their choices are measured on."""

    training: RewardConfig = TRAINING
    heldout: int = Field(40, ge=1, description="held-out prompts of a family")
    answers: int = Field(8, ge=2, description="answers of the SFT checkpoint to each, of which the best is chosen")
    benchmark: int = Field(200, ge=1, description="held-out pairs that differ in form")


def pairs_that_differ(config: PairsOfConfig, inputs: Inputs, run: Run) -> Summary:
    """Stage: of ``pairs``, those between two well-formed answers; or each right answer with itself in a wrong form."""
    from components.preference.pair_store import read_pairs, write_pairs
    from components.sft.tasks import misformat

    rng = random.Random(f"{run.seed}-form")
    pairs = [pair for pair in read_pairs(inputs["pairs"]) if pair.rejected_score > 0]
    if not pairs:
        raise StageError("pairs: no two well-formed answers stand beside each other; raise pairs.samples")
    if config.differ_in == "form":
        pairs = [replace(pair, rejected=misformat(pair.chosen, rng), rejected_score=0.0) for pair in pairs]
    write_pairs(run.output, pairs)
    return {"pairs": len(pairs)}


BENCHMARK = "accuracy on a benchmark of form"
POLICY = "verified share of the answers that it chooses"


def rewards(config: RewardClaim, bench: Bench) -> Measured:
    """Accuracy of both on held-out pairs, and what the best of several answers by either is worth."""
    import numpy as np

    from components.preference.pair_store import read_pairs
    from components.preference.reward_model import train_reward_model
    from components.sft.sampling import judge, sample_answers
    from model.checkpoint import load_model
    from model.tokenizer import Tokenizer

    run, policy = bench.run, bench.inputs["sft"].path
    questions = asked(bench, config.heldout)
    given = sample_answers(
        load_model(policy, run.device).eval(), Tokenizer.load(policy), [c.prompt for c in questions],
        samples=config.answers, temperature=1.0, seed=run.seed,
    )  # fmt: skip
    correct = np.array([[judge(c, a).correct for a in group] for c, group in zip(questions, given, strict=True)])
    answered = [
        [*c.prompt, {"role": "assistant", "content": a.text}]
        for c, group in zip(questions, given, strict=True) for a in group
    ]  # fmt: skip
    accuracy, chosen = {}, {}
    for kind in ("form", "content"):
        pairs = bench.make(
            pairs_that_differ, "preferences", PairsOfConfig(differ_in=kind), {"pairs": bench.inputs["pairs"]}
        )
        if kind == "form":
            benchmark = read_pairs(pairs, "heldout")[: config.benchmark]
        model = bench.make(
            train_reward_model, "reward-model", config.training,
            {"policy": bench.inputs["sft"], "dpo": bench.inputs["dpo"], "pairs": pairs,
             "conversations": bench.inputs["conversations"]},
        )  # fmt: skip
        accuracy[kind] = _ranked_right(model, benchmark, run.device)
        best = np.array(_scored(model, answered, run.device)).reshape(correct.shape).argmax(axis=1)
        chosen[kind] = correct[np.arange(len(correct)), best]
    return {
        BENCHMARK: Scores.of(accuracy["form"], accuracy["content"]),
        POLICY: Scores.of(chosen["form"], chosen["content"]),
    }


def _scored(model: "Artifact", conversations: list[list[dict[str, str]]], device: str) -> list[float]:
    from components.preference.reward_scoring import load_reward_model, score

    return score(*load_reward_model(model.path, device), conversations)


def _ranked_right(model: "Artifact", pairs: "list[Pair]", device: str) -> list[bool]:
    scores = [_scored(model, [pair.conversation(side) for pair in pairs], device) for side in ("chosen", "rejected")]
    return [better > worse for better, worse in zip(*scores, strict=True)]


CLAIMS = (
    Claim(
        "reward-benchmark", "preference", "A better score on a reward benchmark need not give a better policy", "5",
        "two reward models, of pairs that differ in form and of pairs that differ in content: accuracy on a benchmark "
        "of form, and the verified share of the best of 8 answers of the SFT checkpoint by each",
        ("sft", "dpo", "pairs", "conversations"), RewardClaim(), rewards,
        (Contrast(BENCHMARK), Contrast(POLICY, better="lower")),
    ),
)  # fmt: skip
