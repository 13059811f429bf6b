"""Rollouts of GRPO: answers of the current policy to a step's queries, with rewards and advantages."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from components.preference.losses import group_advantages
from components.preference.reward_scoring import RewardModel, score
from components.sft.conversation_store import Conversation
from components.sft.sampling import Answer, verdicts_of
from components.sft.sequences import PackedSequences, pack
from components.training.sharding import bounds
from model.tokenizer import Tokenizer


@dataclass(frozen=True)
class RewardWeights:
    """Shares of the verifiable and of the learnt reward; each part is in [0, 1]."""

    correct: float
    format: float
    model: float


@dataclass(frozen=True)
class Rewards:
    """Of ``(queries, group)`` answers, float64."""

    total: np.ndarray
    correct: np.ndarray
    format: np.ndarray


def reward_answers(
    conversations: list[Conversation], answers: list[list[Answer]], weights: RewardWeights,
    reward_model: tuple[RewardModel, Tokenizer] | None,
) -> Rewards:  # fmt: skip
    """weights.correct * verified + weights.format * well-formed + weights.model * sigmoid(normalised score)."""
    verdicts = verdicts_of(conversations, answers)
    correct, form = verdicts[:, :, 0], verdicts[:, :, 1]
    total = weights.correct * correct + weights.format * form
    if weights.model > 0:
        total = total + weights.model / (1 + np.exp(-score_answers(conversations, answers, reward_model)))
    return Rewards(total, correct, form)


def score_answers(
    conversations: list[Conversation], answers: list[list[Answer]],
    reward_model: tuple[RewardModel, Tokenizer] | None,
) -> np.ndarray:  # fmt: skip
    """(queries, group) float64: the reward model's normalised scores."""
    assert reward_model is not None, "without one its weight is 0"
    whole = [
        [*c.prompt, {"role": "assistant", "content": a.text}]
        for c, group in zip(conversations, answers, strict=True)
        for a in group
    ]
    return np.array(score(*reward_model, whole)).reshape(len(answers), -1)


@dataclass(frozen=True)
class PolicyBatch:
    """What one update (or one micro-batch of it) learns from. Token tensors follow the packed reading order."""

    sequences: PackedSequences
    old_log_probs: Tensor
    """(tokens,) under the policy that wrote the answers."""
    advantages: Tensor
    """(sequences,)."""
    lengths: Tensor
    """(answers,) tokens of *every* sampled answer, which means are over; 0 for one that was left out of the loss."""
    answer: Tensor
    """(sequences,) index into ``lengths``."""
    facts: dict[str, float]

    def split(self, parts: int) -> "list[tuple[PolicyBatch, float]]":
        """Windows in ``parts`` parts. The loss is a sum over tokens of terms that know the whole batch, so all weigh 1.

        A sequence's index stays what it was: it counts in ``advantages`` and ``answer`` of the whole batch.
        """
        windows = len(self.sequences)
        token_window = torch.nonzero(self.sequences.learnt)[:, 0]
        found = []
        for start, stop in bounds(windows, parts):
            rows = torch.arange(start, stop) if stop > start else torch.arange(1)
            mine = (token_window >= int(rows[0])) & (token_window <= int(rows[-1]))
            part = replace(self, sequences=self.sequences.rows(rows), old_log_probs=self.old_log_probs[mine])
            found.append((part, 1.0 if stop > start else 0.0))
        return found


def advantages_of(rewards: np.ndarray, scaling: str) -> np.ndarray:
    """(queries, group) advantages; ``group`` divides by each group's deviation, ``batch`` by that of all, ``none``."""
    values = torch.from_numpy(rewards)
    result = group_advantages(values, scale=scaling == "group")
    if scaling == "batch":
        result = result / (result.std() + 1e-6)
    return result.numpy()


def policy_batch(
    answers: list[Answer], advantages: np.ndarray, facts: dict[str, float], *, sequence_length: int, padding_id: int,
    left_out: np.ndarray | None = None, penalised: bool = False,
) -> PolicyBatch:  # fmt: skip
    """Pack the answers that have a gradient.

    ``answers`` and ``advantages`` (answers,) are flat over queries and groups. Answers of zero advantage have no
    gradient, unless the loss is ``penalised`` by a KL term, which every answer pays. Those ``left_out`` (answers,)
    are no part of the loss at all: their tokens are not counted where a mean is over tokens (TRL's masking of
    truncated answers; the groups that DAPO's objective does not hold).
    """
    has_gradient = np.full(len(answers), True) if penalised else np.abs(advantages) > 1e-9
    lengths = np.array([len(answer.tokens) for answer in answers])
    if left_out is not None:
        has_gradient, lengths = has_gradient & ~left_out, np.where(left_out, 0, lengths)
    useful = np.flatnonzero(has_gradient)
    if not len(useful):
        useful = np.array([0])  # keeps the step well defined: one answer, which pays its KL at most
        lengths[0] = len(answers[0].tokens)
    sequences = [
        (answers[i].prompt + answers[i].tokens, [False] * len(answers[i].prompt) + [True] * len(answers[i].tokens))
        for i in useful
    ]
    packed = pack(sequences, sequence_length, padding_id)
    old = [np.asarray(answers[i].log_probs, np.float32) for i in useful]
    # Learnt tokens are read window by window; within a sequence they keep their order.
    order = packed.token_sequence.numpy()
    place = np.zeros(len(order), np.int64)
    for index in range(len(useful)):
        mine = order == index
        place[mine] = np.arange(mine.sum())
    flat = np.concatenate(old)
    starts = np.cumsum([0, *(len(values) for values in old[:-1])])
    return PolicyBatch(
        packed,
        torch.from_numpy(flat[starts[order] + place]),
        torch.from_numpy(advantages[useful].astype(np.float32)),
        torch.from_numpy(lengths),
        torch.from_numpy(useful),
        facts,
    )


def order_by_variance(variances: np.ndarray) -> np.ndarray:
    """Query indices, highest variance of the answers' reward first; equals keep their order (report, section 4.3)."""
    return np.argsort(-variances, kind="stable")
