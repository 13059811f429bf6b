"""The rollout side of GRPO: orders the queries, samples and rewards answers, measures, and remembers all of it.

Everything that a kill must not lose lies in ``run.state`` as small files, each written atomically and each a pure
function of (seed, step, weights at that step): found there, it is read instead of made again.
"""

import copy
import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from components.preference.grpo_guard import Guard, selection
from components.preference.losses import overlong_punishment
from components.preference.one_step_off import OneStepOff
from components.preference.reward_scoring import load_reward_model
from components.preference.rollout import (
    PolicyBatch,
    RewardWeights,
    advantages_of,
    order_by_variance,
    policy_batch,
    reward_answers,
    score_answers,
)
from components.sft.conversation_store import Conversation, read_conversations
from components.sft.sampling import Answer, Outcome, judge, outcome_of, sample_answers, spread, verdicts_of
from components.sft.sequences import PackedSequences
from components.stage import Inputs, Run
from components.training.checkpoint import write_atomically
from model.checkpoint import load_model
from model.loss import token_log_probs
from model.tokenizer import Tokenizer
from model.transformer import Transformer

if TYPE_CHECKING:
    from components.preference.grpo import GRPOConfig


class Worker:
    """Holds the policy under training and what it is rewarded with."""

    def __init__(self, config: "GRPOConfig", inputs: Inputs, run: Run) -> None:
        self.config, self.run = config, run
        self.model = load_model(inputs["policy"].path, run.device)
        self.tokenizer = Tokenizer.load(inputs["policy"].path)
        self.reward_model = load_reward_model(inputs["reward"].path, run.device) if "reward" in inputs else None
        learnt = config.reward_model_weight if self.reward_model else 0.0
        self.weights = RewardWeights(config.correct_weight, config.format_weight, learnt)
        self.queries = read_conversations(inputs["conversations"], "rl")
        heldout = read_conversations(inputs["conversations"], "heldout")
        self.heldout = spread(heldout, config.evaluation_prompts)
        is_compared = config.kl_coefficient > 0 or config.guards.kl_limit is not None
        self.reference = copy.deepcopy(self.model).requires_grad_(False) if is_compared else None
        self.rollouts, self.measured = run.state / "rollouts", run.state / "measured"
        self.rollouts.mkdir(parents=True, exist_ok=True)
        self.measured.mkdir(parents=True, exist_ok=True)
        self.guard = Guard(config, run, self.rollouts, self.measured)
        self.ahead = OneStepOff(run.state / "behind", self.model, self._sample_behind) if config.asynchronous else None
        self._generating = threading.Lock()  # the engine is asked by one thread at a time
        self.order = (
            np.array(_remember(run.state / "order.json", self._score_queries)) if self.queries else np.array([])
        )
        if config.query_order == "random":  # of the same queries
            self.order = np.random.default_rng(run.seed).permutation(self.order)
        self.pass_rates(0)

    # -- queries ---------------------------------------------------------------------------------------------

    def _score_queries(self) -> list[int]:
        """Query indices by the variance of their answers' reward under the policy before RL, high first."""
        answers = self._sample(self.queries, self.config.scoring_samples, seed=-1)
        self.guard.remember_start(
            {q.id: [answer.tokens for answer in group] for q, group in zip(self.queries, answers, strict=True)}
        )
        scored = np.arange(len(self.queries))
        if self.config.dynamic_sampling:  # whose verdicts agree would be left out of every rollout
            verdicts = [{judge(q, a).correct for a in group} for q, group in zip(self.queries, answers, strict=True)]
            mixed = np.flatnonzero([len(given) > 1 for given in verdicts])
            scored = mixed if len(mixed) else scored
        rewards = reward_answers(
            [self.queries[i] for i in scored], [answers[i] for i in scored], self.weights, self.reward_model
        )
        return scored[order_by_variance(rewards.total.var(axis=1))].tolist()

    def _queries_of(self, rollout: int) -> list[Conversation]:
        """The next queries in order; after the last one the first comes again."""
        count = self.config.queries_per_rollout
        places = (rollout * count + np.arange(count)) % len(self.order)
        return [self.queries[i] for i in self.order[places]]

    # -- batches ---------------------------------------------------------------------------------------------

    def batch_at(self, step: int) -> PolicyBatch:
        """The batch of an update: a part of the rollout that it belongs to, sampled with the weights at its start."""
        rollout, part = divmod(step, self.config.updates_per_rollout)
        if self.ahead and part == 0:
            self.ahead.wait()
        if step and step % self.config.evaluate_every == 0:
            self.pass_rates(step)
        if self.ahead and not self._path(rollout).exists():
            self.ahead.resume(rollout)
        saved = _remember(self._path(rollout), lambda: self._roll_out(rollout))
        if self.ahead and part == 0 and step + self.config.updates_per_rollout < self.config.steps:
            self.ahead.begin(rollout + 1, self.model)
        answers = [Answer(**answer) for answer in saved["answers"]]
        advantages, parts = np.array(saved["advantages"]), self.config.updates_per_rollout
        # Whole groups stay together: rows are flat over (queries, group).
        rows = np.arange(len(answers)).reshape(-1, self.config.group_size)[part::parts].ravel()
        left_out = np.zeros(len(answers), bool)
        if self.config.overlong == "filter":
            left_out |= [not answer.finished for answer in answers]
        if self.config.dynamic_sampling:
            left_out |= np.repeat(_agree(np.array(saved["correct"]), self.config.group_size), self.config.group_size)
        return _to(
            policy_batch(
                [answers[i] for i in rows], advantages[rows], saved["facts"],
                sequence_length=self.config.sequence_length, padding_id=self.tokenizer.eos_id,
                left_out=left_out[rows], penalised=self.config.kl_coefficient > 0,
            ),
            self.run.device,
        )  # fmt: skip

    def queries_at(self, step: int) -> list[str]:
        """Ids of the queries whose answers an update learns from."""
        return [query.id for query in self._queries_of(step // self.config.updates_per_rollout)]

    def _path(self, rollout: int) -> Path:
        return self.rollouts / f"{rollout:06d}.json"

    def _sample_behind(self, rollout: int, model: Transformer) -> None:
        """A rollout with the weights from before the updates of the one before it."""
        behind = {"staleness": float(self.config.updates_per_rollout)}
        _remember(self._path(rollout), lambda: self._roll_out(rollout, model, behind))

    def _roll_out(
        self, rollout: int, model: Transformer | None = None, facts: Mapping[str, float] | None = None
    ) -> dict[str, Any]:
        queries = self._queries_of(rollout)
        answers = self._sample(queries, self.config.group_size, seed=rollout, model=model)
        fresh = {"staleness": 0.0} if self.ahead else {}
        rewards = reward_answers(queries, answers, self.weights, self.reward_model)
        if self.config.overlong == "soft":
            lengths = torch.tensor([[len(answer.tokens) for answer in group] for group in answers])
            rewards.total[:] += overlong_punishment(
                lengths, self.config.max_new_tokens, self.config.overlong_buffer
            ).numpy()
        advantages = advantages_of(rewards.total, self.config.advantage_scaling)
        if self.config.overlong == "filter":
            advantages = advantages * [[answer.finished for answer in group] for group in answers]
        if self.config.dynamic_sampling:
            # Where no verdict differs, only the learnt reward does: its noise would be the whole gradient.
            advantages = advantages * ~_agree(rewards.correct, self.config.group_size)[:, None]
        flat = [answer for group in answers for answer in group]
        kl = {} if self.config.guards.kl_limit is None else {"kl": self._kl(flat)}
        return kl | {
            "queries": [query.id for query in queries],
            "tasks": [query.task for query in queries],
            "answers": [vars(answer) for answer in flat],
            "rewards": rewards.total.ravel().tolist(),
            "correct": rewards.correct.ravel().tolist(),
            "format": rewards.format.ravel().tolist(),
            "advantages": advantages.ravel().tolist(),
            "facts": {
                "reward": float(rewards.total.mean()),
                "pass_rate": float(rewards.correct.mean()),
                "format_rate": float(rewards.format.mean()),
                "answer_tokens": float(np.mean([len(answer.tokens) for answer in flat])),
                "groups_learnt": float((rewards.correct.std(axis=1) > 0).mean()),
                **(facts or fresh),
            },
        }

    def _sample(
        self, queries: list[Conversation], samples: int, seed: int, model: Transformer | None = None
    ) -> list[list[Answer]]:
        with self._generating:
            return sample_answers(
                model or self.model, self.tokenizer, [query.prompt for query in queries], samples=samples,
                temperature=1.0, max_new_tokens=self.config.max_new_tokens,
                seed=self.run.seed * 1_000_003 + 1 + seed,
            )  # fmt: skip

    def reference_log_probs(self, packed: PackedSequences) -> Tensor | None:
        """(tokens,) under the policy before RL; None where the loss has no KL."""
        return self._under_reference(packed) if self.config.kl_coefficient > 0 else None

    def _under_reference(self, packed: PackedSequences) -> Tensor:
        assert self.reference is not None
        with torch.no_grad():
            hidden = self.reference(packed.input_ids, document_ids=packed.document_ids)
            return token_log_probs(hidden, self.reference.output_weight, packed.labels)[packed.learnt]

    def _kl(self, answers: list[Answer]) -> float:
        """KL of the policy that wrote the answers to the one before RL, nats a token (the k3 estimate)."""
        total, tokens = 0.0, 0
        for start in range(0, len(answers), 64):
            part = answers[start : start + 64]
            batch = policy_batch(
                part, np.zeros(len(part)), {}, sequence_length=self.config.sequence_length,
                padding_id=self.tokenizer.eos_id, penalised=True,
            )  # fmt: skip
            batch = _to(batch, self.run.device)
            difference = self._under_reference(batch.sequences) - batch.old_log_probs
            total += float((torch.exp(difference) - difference - 1).sum())
            tokens += len(difference)
        return total / tokens

    # -- measurement -----------------------------------------------------------------------------------------

    def pass_rates(self, step: int) -> Outcome:
        """Held-out outcome of the weights after ``step`` updates, sampled at temperature 1 with common randomness."""

        def compute() -> dict[str, list[Any]]:
            with self._generating:
                answers = sample_answers(
                    self.model, self.tokenizer, [talk.prompt for talk in self.heldout],
                    samples=self.config.evaluation_samples, temperature=1.0,
                    max_new_tokens=self.config.max_new_tokens, seed=self.run.seed,
                )  # fmt: skip
            verdicts = verdicts_of(self.heldout, answers)
            outcome = outcome_of(verdicts)
            self.run.metrics({"heldout_pass_rate": float(outcome.correct.mean())}, step=step)
            self.guard.keep_if_best(step, selection(outcome.correct), self.model)
            found = {"correct": outcome.correct.tolist(), "format": outcome.format.tolist()}
            if self.config.guards.action != "off" and self.weights.model > 0:
                scores = score_answers(self.heldout, answers, self.reward_model)
                found |= {"verdicts": verdicts[:, :, 0].tolist(), "scores": scores.tolist()}
            return found

        saved = _remember(self.measured / f"{step:06d}.json", compute)
        return Outcome(np.array(saved["correct"]), np.array(saved["format"]))

    def curve(self) -> list[dict[str, float]]:
        """Held-out pass rate by step, for the report's plot."""
        steps = sorted(int(path.stem) for path in self.measured.glob("*.json"))
        return [{"step": step, "pass_rate": float(self.pass_rates(step).correct.mean())} for step in steps]

    def write_rollouts(self, steps: int) -> int:
        """All answers of ``steps`` updates with their rewards to ``rollouts.parquet``; returns how many."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows: dict[str, list[Any]] = {
            name: [] for name in ("rollout", "query", "task", "text", "reward", "correct", "format", "advantage")
        }
        count = -(-steps // self.config.updates_per_rollout)
        for rollout in range(count):
            saved = json.loads(self._path(rollout).read_text())
            answers = saved["answers"]
            rows["rollout"] += [rollout] * len(answers)
            for name, source in (("query", "queries"), ("task", "tasks")):
                rows[name] += [value for value in saved[source] for _ in range(self.config.group_size)]
            rows["text"] += [answer["text"] for answer in answers]
            for name, source in (("reward", "rewards"), ("advantage", "advantages")):
                rows[name] += saved[source]
            rows["correct"] += saved["correct"]
            rows["format"] += saved["format"]
        pq.write_table(pa.table(rows), self.run.output / "rollouts.parquet", compression="zstd")
        return len(rows["text"])


def _remember(path: Path, compute: Callable[[], Any]) -> Any:
    """JSON from ``path``, or computed and written there atomically."""
    if not path.exists():
        write_atomically(path, json.dumps(compute()).encode())
    return json.loads(path.read_text())


def _agree(correct: np.ndarray, group: int) -> np.ndarray:
    """(queries,) whether all verdicts of a query's ``group`` answers are the same."""
    return correct.reshape(-1, group).std(axis=1) == 0


def _to(batch: PolicyBatch, device: str) -> PolicyBatch:
    return PolicyBatch(
        batch.sequences.to(device), batch.old_log_probs.to(device), batch.advantages.to(device),
        batch.lengths.to(device), batch.answer.to(device), batch.facts,
    )  # fmt: skip
