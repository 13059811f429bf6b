"""Which stages a recipe has: the whole line of ``flows/stages.py``, the shorter one after a given checkpoint, or a
scaling study's.

The rows of the shorter one are those of the whole one (function, version, alias) with other producers; those of a study
up to its token shards are the whole one's. Conversations of one's own (``[imported]``) go into SFT in both lines.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from pydantic import BaseModel

from flows.recipe import AnyRecipe, Recipe, StartRecipe, StudyRecipe
from flows.stages import PIPELINE, Part, Stage, evaluation, through

_ROWS = {stage.id: stage for stage in PIPELINE}
_FURTHER = (
    Stage(
        "long-context", "components.evaluation.long_context:measure_long_context", "evaluation",
        {"base": "pretrain", "long": "extend", "shards": "shards"}, table="long_context",
    ),
    Stage(
        "experts", "components.evaluation.experts:measure_experts", "evaluation",
        {"checkpoint": "extend", "shards": "shards"},
    ),
)  # fmt: skip
_LAWS = ("law-dense", "held-out-dense", "law-moe", "held-out-moe")
STAGE_NAMES = ("start", "factories", "imported", "evaluate-start", *_ROWS, "long-context", "experts", *_LAWS)
"""Of all recipes; a study has a sweep for each of its shapes, too."""
_ALIASES = {"sft": "sft", "dpo": "dpo", "grpo": "rl"}


def pipeline_of(recipe: AnyRecipe) -> tuple[Stage, ...]:
    """The stages of ``recipe``, in order."""
    if isinstance(recipe, StudyRecipe):
        return scaling_study(recipe)
    if isinstance(recipe, StartRecipe):
        return post_training(recipe)
    if not isinstance(recipe, Recipe):
        return PIPELINE
    return with_imported(with_measurements(recipe)) if recipe.imported else with_measurements(recipe)


def with_measurements(recipe: Recipe) -> tuple[Stage, ...]:
    """The whole line, with the further measurements that the recipe has a table for after those of the checkpoint."""
    asked = [stage for stage in _FURTHER if getattr(recipe, stage.config_table) is not None]
    if not asked:
        return PIPELINE
    *stages, report = PIPELINE
    place = next(number for number, stage in enumerate(stages) if stage.id == "evaluate-long") + 1
    stages[place:place] = asked
    return (*stages, replace(report, inputs={**report.inputs, **{stage.id: stage.id for stage in asked}}))


def scaling_study(recipe: StudyRecipe) -> tuple[Stage, ...]:
    """Data, then for each kind of model a sweep of every shape, the law, and the model that the law is tested with."""
    stages = list(through(PIPELINE, "shards"))
    sweeps: dict[str, list[str]] = {}
    for kind, sizes in recipe.study.kinds.items():
        sweeps[kind] = []
        for index, shape in enumerate(sizes.shapes):
            sweeps[kind].append(f"sweep-{kind}-{shape.label}")
            stages.append(
                Part(
                    sweeps[kind][-1], "components.scaling.study:sweep_shape", "scaling-law", {"shards": "shards"},
                    table="study", part=partial(_part, "sweep_of", kind, index),
                )
            )  # fmt: skip
        inputs = {f"own-{number}": stage for number, stage in enumerate(sweeps[kind])}
        if kind != "dense":  # experts are measured in dense parameters
            inputs |= {f"dense-{number}": stage for number, stage in enumerate(sweeps["dense"])}
        stages += [
            Part(
                f"law-{kind}", "components.scaling.study:predict", "scaling-law", inputs, table="study",
                part=partial(_part, "prediction_of", kind),
            ),
            Part(
                f"held-out-{kind}", "components.scaling.study:hold_out", "scaling-law",
                {"shards": "shards", "law": f"law-{kind}"}, table="study", part=partial(_part, "held_out_of", kind),
            ),
        ]  # fmt: skip
    stages.append(replace(_ROWS["report"], inputs={stage.id: stage.id for stage in stages}))
    return tuple(stages)


def _part(method: str, *arguments: Any) -> BaseModel:
    *given, study = arguments
    found: BaseModel = getattr(study, method)(*given)
    return found


def with_imported(pipeline: Sequence[Stage]) -> tuple[Stage, ...]:
    """The same with conversations of one's own, checked, before SFT, which reads them too."""
    rows: list[Stage] = []
    for stage in pipeline:
        if stage.id == "sft":
            rows.append(_imported("tokenizer"))
            stage = replace(stage, inputs={**stage.inputs, "imported": "imported"})
        rows.append(stage)
    return tuple(rows)


def _imported(tokenizer: str) -> Stage:
    return Stage(
        "imported", "components.sft.imported:import_conversations", "conversations",
        {"tokenizer": tokenizer, "conversations": "conversations"},
    )  # fmt: skip


def post_training(recipe: StartRecipe) -> tuple[Stage, ...]:
    """From the checkpoint through every stage whose table stands in the recipe; each goes on from the one before."""
    stages = [Stage("start", "components.serving.start:start", "checkpoint", alias="start")]

    def add(stage_id: str, **inputs: str) -> None:
        stages.append(replace(_ROWS[stage_id], inputs=inputs))

    add("conversations", tokenizer="start")
    prompts = {"conversations": "conversations"}
    policy = "start"
    if recipe.factories:
        stages.append(
            Stage("factories", "components.sft.factories.build:make_factories", "conversations", prompts, version=2)
        )
    if recipe.imported:
        stages.append(_imported("start"))
    if recipe.sft:
        more = {name: name for name in ("factories", "imported") if getattr(recipe, name)}
        add("sft", long="start", **prompts, **more)
        policy = "sft"
    if recipe.pairs:
        add("pairs", policy=policy, **prompts)
    tuned = policy  # what the pairs are of
    if recipe.dpo:
        add("dpo", policy=tuned, base="start", pairs="pairs")  # online merging goes back towards the start
        policy = "dpo"
    rewarded = {"reward": "reward"} if recipe.reward else {}
    if recipe.reward:
        add("reward", policy=tuned, **({"dpo": "dpo"} if recipe.dpo else {}), pairs="pairs", **prompts)
    if recipe.grpo:
        add("grpo", policy=policy, **rewarded, **prompts)
    trained = {alias: stage for stage, alias in _ALIASES.items() if getattr(recipe, stage)}
    held_out = {"factories": "factories"} if recipe.factories and recipe.factories.held_out else {}
    for name, stage in ({"start": "start"} | trained).items():
        measured = evaluation(name, stage)
        stages.append(replace(measured, inputs={"checkpoint": stage, **prompts, **held_out, **rewarded}))
    if trained:
        add("export", **trained)
    add("report", **{stage.id: stage.id for stage in stages})
    return tuple(stages)


__all__ = ["STAGE_NAMES", "pipeline_of", "post_training", "scaling_study"]
