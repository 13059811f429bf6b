"""Stage ``grpo``: group relative policy optimisation (arXiv 2402.03300) with verifiable and learnt rewards.

Published (report, section 4.3): 8 answers a query, global batch 2,048, 2,048 answers an episode; queries in order of
the variance of their answers' reward, high first. Learning rate, clipping and KL weight are not published.
Rollouts are sampled at temperature 1, where the sampled log-probabilities are those of the policy itself.
"""

import operator
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from components.preference.guards import GuardConfig
from components.stage import Inputs, Run, StageError, Summary, effect
from components.training.config import TrainingConfig

if TYPE_CHECKING:
    from components.preference.rollout import PolicyBatch
    from model.transformer import Transformer


PAPERS: dict[str, dict[str, Any]] = {
    "grpo": {"reduction": "sequence", "advantage_scaling": "group"},  # arXiv 2402.03300
    "dr-grpo": {"reduction": "constant", "advantage_scaling": "none"},  # arXiv 2503.20783
    "dapo": {
        "reduction": "token", "advantage_scaling": "group", "clip_low": 0.2, "clip_high": 0.28,
        "dynamic_sampling": True, "overlong": "soft",
    },  # arXiv 2503.14476
    "gspo": {
        "reduction": "sequence", "advantage_scaling": "group", "ratio": "sequence", "clip_low": 3e-4,
        "clip_high": 4e-4,
    },  # arXiv 2507.18071, section 5.1
}  # fmt: skip
"""What ``GRPOConfig.variant`` sets: the loss, clipping and sampling of each paper."""


class GRPOConfig(TrainingConfig):
    """Defaults are the published values where there are any."""

    # Fields with exclude_if came later: at their defaults they are not part of the dump, so that cache keys and
    # digests from before they existed stay what they were.
    variant: Literal["grpo", "dr-grpo", "dapo", "gspo"] | None = Field(
        None,
        description="take the settings of a paper (GRPO, Dr. GRPO, DAPO, GSPO); those given beside it win",
        exclude_if=lambda value: value is None,
    )

    learning_rate: float = Field(1e-6, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    steps: int = Field(100, ge=1, description="updates")
    group_size: int = Field(8, ge=2, description="answers a query")
    queries_per_rollout: int = Field(256, ge=1, description="2,048 answers an episode / 8 answers a query")
    updates_per_rollout: int = Field(1, ge=1, description="updates that learn from one rollout")
    max_new_tokens: int = Field(64, ge=1)
    sequence_length: int = Field(32_768, ge=16, description="tokens of a packed window")
    clip_low: float = Field(0.2, gt=0, lt=1)
    clip_high: float = Field(0.2, gt=0)
    kl_coefficient: float = Field(0.0, ge=0, description="weight of the k3 estimate of KL to the DPO policy")
    reduction: Literal["sequence", "token", "constant"] = Field(
        "sequence", description="mean over answers, over tokens, or the sum over answers * max_new_tokens"
    )
    ratio: Literal["token", "sequence"] = Field(
        "token",
        description="probability ratio that is clipped: of a token, or of the whole answer (GSPO)",
        exclude_if=lambda value: value == "token",
    )
    overlong: Literal["fail", "filter", "soft"] = Field(
        "fail",
        description="an answer cut at max_new_tokens has failed (fail), teaches nothing (filter), or has failed and "
        "the last overlong_buffer tokens before the cut cost up to 1 (soft; arXiv 2503.14476)",
        exclude_if=lambda value: value == "fail",
    )
    overlong_buffer: int = Field(
        16, ge=1, description="soft: tokens below max_new_tokens where the cost begins",
        exclude_if=lambda value: value == 16,
    )  # fmt: skip
    advantage_scaling: Literal["group", "batch", "none"] = Field("group", description="by whose deviation")
    dynamic_sampling: bool = Field(
        False, description="DAPO (arXiv 2503.14476): leave out queries whose answers are all verified or all refused"
    )
    correct_weight: float = Field(1.0, ge=0)
    format_weight: float = Field(0.1, ge=0)
    reward_model_weight: float = Field(0.1, ge=0)
    query_order: Literal["variance", "random"] = Field(
        "variance",
        description="of the queries: by the variance of their answers' reward, high first, or a seeded shuffle of them",
        exclude_if=lambda value: value == "variance",
    )
    asynchronous: bool = Field(
        False,
        description="sample the next rollout while this one's updates are computed: one step off (arXiv 2410.18252)",
        exclude_if=operator.not_,
    )
    scoring_samples: int = Field(4, ge=2, description="answers a query, from which the variance is estimated")
    evaluate_every: int = Field(10, ge=1, description="updates between held-out pass rates in the history")
    evaluation_prompts: int = Field(200, ge=1)
    evaluation_samples: int = Field(4, ge=1)
    guards: GuardConfig = Field(
        GuardConfig(),
        description="against reward hacking and collapse",
        exclude_if=lambda value: value == GuardConfig(),
    )

    @model_validator(mode="before")
    @classmethod
    def _take_the_papers_settings(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return PAPERS.get(str(values.get("variant")), {}) | values

    @model_validator(mode="after")
    def _buffer_fits(self) -> "GRPOConfig":
        if self.overlong == "soft" and self.overlong_buffer > self.max_new_tokens:
            raise ValueError(
                f"overlong_buffer {self.overlong_buffer} is above max_new_tokens {self.max_new_tokens}; lower it"
            )
        return self


def train_grpo(config: GRPOConfig, inputs: Inputs, run: Run) -> Summary:
    """Reinforce a policy; the effect is its held-out pass rate, sampled, paired by prompt.

    Inputs ``policy``, ``conversations``, and where answers are scored by one ``reward``.
    """
    from components.evaluation.statistics import paired_difference
    from components.preference.grpo_worker import Worker
    from components.preference.losses import clipped_policy_loss, importance, reduce_tokens
    from components.training.loop import train
    from components.training.saving import save_trained
    from model.checkpoint import load_model
    from model.loss import token_log_probs

    if config.asynchronous and run.layout.world_size > 1:
        raise StageError("grpo.asynchronous: one process only; leave it out, or use world size 1")
    worker = Worker(config, inputs, run)
    if not worker.queries or not worker.heldout:
        raise StageError("grpo: the conversations hold no rl or no heldout split; raise their sizes")
    if config.guards.selects and len(worker.heldout) < 2:
        raise StageError("grpo: to keep the best weights takes two held-out prompts; raise grpo.evaluation_prompts")

    def objective(model: "Transformer", batch: "PolicyBatch") -> tuple[Any, dict[str, float]]:
        packed = batch.sequences
        hidden = model(packed.input_ids, document_ids=packed.document_ids)
        log_probs = token_log_probs(hidden, model.output_weight, packed.labels)[packed.learnt]
        sequence = packed.token_sequence
        result = clipped_policy_loss(
            log_probs, batch.old_log_probs, batch.advantages[sequence], clip_low=config.clip_low,
            clip_high=config.clip_high, reference_log_probs=worker.reference_log_probs(packed),
            kl_coefficient=config.kl_coefficient, sequence=sequence if config.ratio == "sequence" else None,
        )  # fmt: skip
        loss = reduce_tokens(
            result.loss, batch.answer[sequence], batch.lengths, config.reduction, config.max_new_tokens
        )
        off_policy = importance(log_probs.detach(), batch.old_log_probs) if config.asynchronous else {}
        return loss, {
            **batch.facts,
            **off_policy,
            "kl": result.kl.mean().item(),
            "clipped": result.clipped.float().mean().item(),
            "tokens": float((packed.document_ids >= 0).sum()),
        }

    history = train(
        worker.model, objective, worker.batch_at, config=config, steps=config.steps, run=run, name="grpo",
        split=lambda batch, parts: batch.split(parts), documents_at=worker.queries_at, samples_from_model=True,
        flops_per_token=worker.model.config.training_flops_per_token(config.sequence_length),
        stop=worker.guard.stop,
    )  # fmt: skip
    if worker.ahead:
        worker.ahead.wait()
        worker.ahead.close()
    done = int(history[-1]["step"])
    worker.guard.stop(done)  # judges the last rollout too
    worker.pass_rates(done)
    kept, prompts = done, slice(None)
    guards: Summary = {}
    if config.guards.selects:
        kept = worker.guard.take_best(done, worker.model, load_model(inputs["policy"].path, run.device))
        prompts = slice(1, None, 2)  # the others decided
    if config.guards != GuardConfig():
        guards = {"guards": worker.guard.summary(kept)}
    heldout = worker.heldout[prompts]
    before, after = worker.pass_rates(0).of(prompts), worker.pass_rates(kept).of(prompts)
    facts = save_trained(run, worker.model, worker.tokenizer, "grpo", history, config.sequence_length)
    rollouts = worker.write_rollouts(done)
    gain = paired_difference(after.correct, before.correct, seed=run.seed)
    curve = worker.curve()
    return guards | {
        **facts,
        "queries": len(worker.queries),
        "rollouts": rollouts,
        "reward": {"first": history[0]["reward"], "last": history[-1]["reward"]},
        "heldout_curve": curve,
        "before": before.summary(heldout),
        "after": after.summary(heldout),
        "effects": [
            effect("held-out pass rate, sampled", float(after.correct.mean()), float(before.correct.mean()),
                   low=gain.low, high=gain.high,
                   note=f"{len(heldout)} prompts x {config.evaluation_samples} answers at temperature 1"),
        ],
    }  # fmt: skip
