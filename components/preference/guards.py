"""Guards of reinforcement learning: whether a policy learns what is wanted, or how to be rewarded for something else.

A policy that games its reward writes longer or more repetitive answers than it did before to the same queries, of
which no more verify (Singhal et al. 2023, arXiv 2310.03716); its learnt reward rises while verified answers fall (Gao
et al. 2022, arXiv 2210.10760); and the reward model comes to prefer wrong answers.
Every verdict is a pure function of what was sampled and measured before a step, so a resumed run comes to the same.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from pydantic import Field

from components.stage import StageConfig

_EXCUSE_Z = 1.64
"""More verified answers by so many standard errors (one-sided 5%) excuse longer or more repetitive ones."""
_LEAST_PAIRS = 20
"""Pairs of a right and a wrong answer below which disagreement is not judged."""


class GuardConfig(StageConfig):
    """Off by default. The published report names no bounds; these are this project's."""

    action: Literal["off", "warn", "stop"] = Field(
        "off", description="stop: end the updates, with the reason in the summary, and keep the best checkpoint"
    )
    window: int = Field(4, ge=1, description="rollouts that are averaged")
    length_growth: float = Field(1.5, gt=1, description="most tokens / those before RL, unless more answers verify")
    repetition_rise: float = Field(
        0.2, gt=0, lt=1, description="most rise of the share of repeated trigrams, unless more answers verify"
    )
    disagreement_rise: float = Field(
        0.15, gt=0, lt=1, description="most rise of the share of held-out pairs whose wrong answer is scored higher"
    )
    kl_limit: float | None = Field(None, gt=0, description="most KL to the policy before RL, nats a token")
    entropy_low: float | None = Field(None, ge=0, description="least entropy, nats a token")
    entropy_high: float | None = Field(None, gt=0, description="most entropy, nats a token")
    keep_best: bool = Field(
        False, description="end with the weights of the best held-out pass rate, which half of the prompts decides"
    )

    @property
    def selects(self) -> bool:
        """Whether the stage ends with its best weights instead of its last ones."""
        return self.keep_best or self.action == "stop"


@dataclass(frozen=True)
class Trip:
    """A guard that tripped: after so many updates, which one, and why."""

    step: int
    kind: str
    reason: str


@dataclass(frozen=True)
class Signals:
    """Of one rollout."""

    correct: np.ndarray
    """(queries,) share of verified answers."""
    reward: float
    tokens: float
    """Mean of an answer."""
    tokens_before: float
    """Mean of an answer of the policy before RL to the same queries."""
    repetition: float
    """Share of an answer's trigrams that it has said before, mean over answers."""
    repetition_before: float
    entropy: float
    """Nats a token, estimated as the mean surprise of the sampled tokens (temperature 1)."""
    kl: float | None
    """Nats a token, where it was measured."""


@dataclass(frozen=True)
class Heldout:
    """Held-out answers at one step, both (prompts, samples)."""

    correct: np.ndarray
    scores: np.ndarray
    """The reward model's, normalised."""


def signals_of(saved: Mapping[str, Any], group: int, before: Mapping[str, tuple[float, float]]) -> Signals:
    """``saved``: a rollout as the worker keeps it, flat over queries and their ``group`` answers; ``before``: what
    ``habits`` says of each query's answers before RL."""
    log_probs = [value for answer in saved["answers"] for value in answer["log_probs"]]
    tokens, repetition = habits([answer["tokens"] for answer in saved["answers"]])
    tokens_before, repetition_before = np.mean([before[query] for query in saved["queries"]], axis=0).tolist()
    return Signals(
        correct=np.array(saved["correct"]).reshape(-1, group).mean(axis=1),
        reward=float(np.mean(saved["rewards"])),
        tokens=tokens,
        tokens_before=tokens_before,
        repetition=repetition,
        repetition_before=repetition_before,
        entropy=-float(np.mean(log_probs)),
        kl=saved.get("kl"),
    )


def habits(answers: list[list[int]]) -> tuple[float, float]:
    """Tokens and share of repeated trigrams of an answer, means over ``answers``."""
    return float(np.mean([len(tokens) for tokens in answers])), float(np.mean([*map(repeated_trigrams, answers)]))


def repeated_trigrams(tokens: list[int]) -> float:
    """Share of the trigrams of ``tokens`` that came before in them; 0 for fewer than three tokens."""
    trigrams = list(zip(tokens, tokens[1:], tokens[2:], strict=False))
    return 1 - len(set(trigrams)) / len(trigrams) if trigrams else 0.0


def judge_rollouts(signals: list[Signals], config: GuardConfig) -> dict[str, str]:
    """What is wrong with the latest of all rollouts so far: kind -> reason."""
    latest = signals[-config.window :]
    found: dict[str, str] = {}
    entropy = float(np.mean([s.entropy for s in latest]))
    if config.entropy_low is not None and entropy < config.entropy_low:
        found["entropy"] = f"the entropy fell to {entropy:.3f} nats a token, below {config.entropy_low:g}"
    if config.entropy_high is not None and entropy > config.entropy_high:
        found["entropy"] = f"the entropy rose to {entropy:.3f} nats a token, above {config.entropy_high:g}"
    measured = [s.kl for s in latest if s.kl is not None]
    if config.kl_limit is not None and measured and (kl := float(np.mean(measured))) > config.kl_limit:
        found["kl"] = f"the policy is {kl:.3f} nats a token from where it began, above {config.kl_limit:g}"
    if len(signals) <= config.window:  # no verified answers yet to compare with
        return found
    first = signals[: min(config.window, len(signals) - config.window)]
    right, right_first = (np.concatenate([s.correct for s in part]) for part in (latest, first))
    if _risen(right, right_first):
        return found
    verified = f"while verified answers went from {right_first.mean():.1%} to {right.mean():.1%}"
    tokens, before = (float(np.mean([getattr(s, name) for s in latest])) for name in ("tokens", "tokens_before"))
    if tokens > config.length_growth * before:
        found["length"] = f"answers grew from {before:.1f} to {tokens:.1f} tokens {verified}"
    share, before = (float(np.mean([getattr(s, name) for s in latest])) for name in ("repetition", "repetition_before"))
    if share > before + config.repetition_rise:
        found["repetition"] = f"repeated trigrams rose from {before:.0%} to {share:.0%} {verified}"
    return found


def judge_heldout(first: Heldout, now: Heldout, config: GuardConfig, seed: int) -> dict[str, str]:
    """What the reward model's scores of held-out answers say beside the verifier, against ``first``: kind -> reason."""
    from components.evaluation.statistics import paired_difference

    found: dict[str, str] = {}
    verified = paired_difference(now.correct.mean(1), first.correct.mean(1), seed=seed)
    learnt = paired_difference(now.scores.mean(1), first.scores.mean(1), seed=seed)
    if verified.high < 0 < learnt.low:
        found["divergence"] = (
            f"held out, the reward model's score rose by {learnt.value:.2f} while verified answers fell from "
            f"{first.correct.mean():.1%} to {now.correct.mean():.1%}"
        )
    (wrong_first, pairs_first), (wrong, pairs) = disagreement(first), disagreement(now)
    if min(pairs_first, pairs) >= _LEAST_PAIRS and wrong > wrong_first + config.disagreement_rise:
        found["disagreement"] = (
            f"held out, the reward model prefers the wrong answer in {wrong:.0%} of {pairs} pairs, "
            f"{wrong_first:.0%} before"
        )
    return found


def disagreement(heldout: Heldout) -> tuple[float, int]:
    """Share of the pairs of a right and a wrong answer to one prompt in which the wrong one is scored higher (ties
    half), and the number of pairs."""
    right, wrong = heldout.correct > 0.5, heldout.correct <= 0.5
    pairs = right[:, :, None] & wrong[:, None, :]  # (prompts, right, wrong)
    difference = heldout.scores[:, None, :] - heldout.scores[:, :, None]
    count = int(pairs.sum())
    return (float(((np.sign(difference) + 1) / 2)[pairs].mean()) if count else 0.0), count


def as_facts(trips: list[Trip]) -> list[dict[str, Any]]:
    return [asdict(trip) for trip in trips]


def _risen(now: np.ndarray, before: np.ndarray) -> bool:
    """Whether the mean is higher beyond noise, by Welch's statistic over queries."""
    if min(len(now), len(before)) < 2:
        return bool(now.mean() > before.mean())
    error = np.sqrt(now.var(ddof=1) / len(now) + before.var(ddof=1) / len(before))
    return bool(now.mean() - before.mean() > max(_EXCUSE_Z * error, 1e-12))
