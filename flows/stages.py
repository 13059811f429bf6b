"""The pipeline, in the order of the report: what a recipe run is made of.

A row names a stage's function (imported only when the stage runs), its version and the stages whose artifacts it
reads. Raise ``version`` whenever a stage's code would give another result for the same config and inputs: it is
part of the cache key, so old results are then no longer taken for new ones.
"""

import hashlib
import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from components.stage import Kind

ACCELERATOR = "accelerator"
"""Tag of the Prefect tasks that compute on one: ``qwenforge deploy --accelerators`` limits how many do so at once."""


@dataclass(frozen=True)
class Stage:
    """One row of the pipeline."""

    id: str
    function: str  # "package.module:function"
    kind: Kind
    inputs: Mapping[str, str] = field(default_factory=dict)  # the function's name for it -> producing stage
    version: int = 1
    table: str = ""  # the recipe's table that configures it, where that is not the id
    alias: str = ""  # name in the model registry, for checkpoints
    trains: bool = False  # may be spread over processes: it does its updates through ``components.training.loop``

    @property
    def config_table(self) -> str:
        return self.table or self.id

    @property
    def computes(self) -> bool:
        """Whether a model computes in it, so that it wants an accelerator where there is one."""
        return self.trains or self.kind in ("evaluation", "preferences", "scaling-law")

    def load(self) -> Callable[..., Any]:
        """Import the stage function."""
        module, _, name = self.function.partition(":")
        return getattr(importlib.import_module(module), name)

    def config(self, recipe: BaseModel) -> BaseModel:
        """This stage's table of ``recipe``."""
        return getattr(recipe, self.config_table)


@dataclass(frozen=True)
class Part(Stage):
    """One of several stages that the same table is mapped to; each is configured by its own part of the table."""

    part: Callable[[Any], BaseModel] = lambda table: table

    def config(self, recipe: BaseModel) -> BaseModel:
        return self.part(super().config(recipe))


def evaluation(name: str, checkpoint: str) -> Stage:
    """The same held-out measurements for every checkpoint."""
    return Stage(
        f"evaluate-{name}",
        "components.evaluation.evaluate:evaluate",
        "evaluation",
        {
            "checkpoint": checkpoint,
            "shards": "shards",
            "conversations": "conversations",
            "reward": "reward",
        },
        table="evaluate",
        version=3,
    )


MODEL_STAGES = (
    # 3.1 Pre-training data
    Stage("ingest", "components.data.ingest:ingest", "corpus"),
    Stage("clean", "components.data.clean:clean", "corpus", {"documents": "ingest"}, version=2),
    Stage("deduplicate", "components.data.deduplicate:deduplicate", "corpus", {"documents": "clean"}),
    Stage(
        "quality", "components.data.quality:score_quality", "corpus",
        {"documents": "deduplicate", "rejected": "ingest"},
    ),
    Stage("domains", "components.data.domains:classify_domains", "corpus", {"documents": "quality"}),
    Stage("synthetic", "components.data.synthetic:synthesize", "corpus", {"documents": "domains"}),
    Stage(
        "mixture", "components.data.mixture:mix", "mixture", {"documents": "domains", "synthetic": "synthetic"}
    ),
    Stage(
        "decontaminate", "components.data.decontaminate:decontaminate", "mixture", {"documents": "mixture"}
    ),
    # 2 Tokenizer
    Stage(
        "tokenizer", "components.data.tokenizer:train_tokenizer", "tokenizer", {"documents": "decontaminate"}
    ),
    Stage(
        "shards", "components.data.shards:tokenize", "shards",
        {"documents": "decontaminate", "tokenizer": "tokenizer"},
    ),
    # 3.2 Scaling laws of hyper-parameters
    Stage(
        "scaling", "components.scaling.sweep:sweep", "scaling-law",
        {"shards": "shards", "tokenizer": "tokenizer"}, version=4,
    ),
    # 3 Pre-training, 3.3 Long-context pre-training
    Stage(
        "pretrain", "components.training.pretrain:pretrain", "checkpoint",
        {"shards": "shards", "tokenizer": "tokenizer", "scaling": "scaling"}, alias="base", trains=True, version=3,
    ),
    Stage(
        "extend", "components.training.extend:extend_context", "checkpoint",
        {"base": "pretrain", "shards": "shards"}, alias="long", trains=True, version=3,
    ),
    # 4.1 Supervised fine-tuning
    Stage(
        "conversations", "components.sft.conversations:make_conversations", "conversations",
        {"tokenizer": "tokenizer"},
    ),
    Stage(
        "sft", "components.sft.fine_tune:fine_tune", "checkpoint",
        {"long": "extend", "conversations": "conversations"}, alias="sft", trains=True, version=4,
    ),
    # 4.2 Offline reinforcement learning
    Stage(
        "pairs", "components.preference.pairs:make_pairs", "preferences",
        {"policy": "sft", "conversations": "conversations"}, version=2,
    ),
    Stage(
        "dpo", "components.preference.dpo:train_dpo", "checkpoint",
        {"policy": "sft", "base": "extend", "pairs": "pairs"}, alias="dpo", trains=True, version=3,
    ),
    # 4.3 Online reinforcement learning
    Stage(
        "reward", "components.preference.reward_model:train_reward_model", "reward-model",
        {"policy": "sft", "dpo": "dpo", "pairs": "pairs", "conversations": "conversations"},
        trains=True, version=3,
    ),
    Stage(
        "grpo", "components.preference.grpo:train_grpo", "checkpoint",
        {"policy": "dpo", "reward": "reward", "conversations": "conversations"}, alias="rl", trains=True, version=4,
    ),
    # 5 Evaluation
    Stage(
        "ngram", "components.evaluation.ngram:score_ngram", "evaluation",
        {"shards": "shards", "tokenizer": "tokenizer"},
    ),
    evaluation("base", "pretrain"),
    evaluation("long", "extend"),
    evaluation("sft", "sft"),
    evaluation("dpo", "dpo"),
    evaluation("rl", "grpo"),
    # Delivery
    Stage(
        "export", "components.serving.export:export_checkpoints", "export",
        {"base": "pretrain", "long": "extend", "sft": "sft", "dpo": "dpo", "rl": "grpo"},
    ),
)  # fmt: skip

PIPELINE = (
    *MODEL_STAGES,
    Stage(
        "report",
        "components.evaluation.report:write_report",
        "report",
        {stage.id: stage.id for stage in MODEL_STAGES},
        version=3,
    ),
)


def cache_key(stage: Stage, config: BaseModel, seed: int, inputs: Mapping[str, str]) -> str:
    """Sha256 over what decides a stage's result: id, version, config, seed and ``inputs`` (name -> digest)."""
    facts = {
        "stage": stage.id,
        "version": stage.version,
        "config": config.model_dump(mode="json"),
        "seed": seed,
        "inputs": dict(inputs),
    }
    canonical = json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def config_digest(config: BaseModel) -> str:
    """Sha256 of a config's canonical JSON."""
    canonical = json.dumps(config.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def through(pipeline: Sequence[Stage], last: str) -> tuple[Stage, ...]:
    """``last`` and all stages that it needs, in the pipeline's order."""
    rows = {stage.id: stage for stage in pipeline}
    needed, waiting = set(), [last]
    while waiting:
        stage_id = waiting.pop()
        if stage_id not in needed:
            needed.add(stage_id)
            waiting.extend(rows[stage_id].inputs.values())
    return tuple(stage for stage in pipeline if stage.id in needed)


def after(pipeline: Sequence[Stage], first: str) -> set[str]:
    """Ids of ``first`` and of every stage that depends on it."""
    reached = {first}
    for stage in pipeline:
        if reached & set(stage.inputs.values()):
            reached.add(stage.id)
    return reached


__all__ = [
    "MODEL_STAGES", "PIPELINE", "Part", "Stage", "after", "cache_key", "config_digest", "evaluation", "through",
]  # fmt: skip
