"""Which stages a recipe has: the whole line of ``flows/stages.py``, or the shorter one after a given checkpoint.

The rows of the shorter one are those of the whole one (function, version, alias) with other producers.
"""

from dataclasses import replace

from flows.recipe import AnyRecipe, StartRecipe
from flows.stages import PIPELINE, Stage, evaluation

_ROWS = {stage.id: stage for stage in PIPELINE}
STAGE_NAMES = ("start", "factories", "evaluate-start", *_ROWS)
"""Of all recipes."""
_ALIASES = {"sft": "sft", "dpo": "dpo", "grpo": "rl"}


def pipeline_of(recipe: AnyRecipe) -> tuple[Stage, ...]:
    """The stages of ``recipe``, in order."""
    return post_training(recipe) if isinstance(recipe, StartRecipe) else PIPELINE


def post_training(recipe: StartRecipe) -> tuple[Stage, ...]:
    """From the checkpoint through every stage whose table stands in the recipe; each goes on from the one before."""
    stages = [Stage("start", "components.serving.start:start", "checkpoint", alias="start")]

    def add(stage_id: str, **inputs: str) -> None:
        stages.append(replace(_ROWS[stage_id], inputs=inputs))

    add("conversations", tokenizer="start")
    prompts = {"conversations": "conversations"}
    policy = "start"
    if recipe.factories:
        stages.append(Stage("factories", "components.sft.factories.build:make_factories", "conversations", prompts))
    if recipe.sft:
        add("sft", long="start", **prompts, **({"factories": "factories"} if recipe.factories else {}))
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
    for name, stage in ({"start": "start"} | trained).items():
        measured = evaluation(name, stage)
        stages.append(replace(measured, inputs={"checkpoint": stage, **prompts, **rewarded}))
    if trained:
        add("export", **trained)
    add("report", **{stage.id: stage.id for stage in stages})
    return tuple(stages)


__all__ = ["STAGE_NAMES", "pipeline_of", "post_training"]
