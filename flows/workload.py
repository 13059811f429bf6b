"""Tokens and FLOPs of the training stages, from a recipe alone.

Pre-training figures are what will be done. After pre-training the number of tokens depends on how long questions
and answers turn out: those figures are upper bounds from the longest answer that a stage allows, plus ``PROMPT``.
Counting: forward 2 FLOPs a weight and token plus attention, backward twice that (``ModelConfig``).
"""

from collections.abc import Iterator
from dataclasses import dataclass

from components.scaling.shapes import StudyShape
from components.scaling.study import DIRECT_RUNS
from components.serving.start import ModelConfig
from flows.recipe import AnyRecipe, Recipe, StartRecipe, StudyRecipe

PROMPT = 100  # tokens of a typical question with its system prompt


@dataclass(frozen=True)
class Workload:
    """What one stage has to compute."""

    stage: str
    trained_tokens: float  # seen by forward and backward passes
    generated_tokens: float  # written, or only read, by forward passes
    sequence_length: int
    flops: float
    bound: bool  # an upper bound instead of what will be done


def workloads(recipe: AnyRecipe, model: ModelConfig) -> Iterator[Workload]:
    """One entry a training stage, in the pipeline's order; ``model``: the shape that is trained."""
    if isinstance(recipe, StudyRecipe):
        yield from _study(recipe)
        return
    assert isinstance(recipe, Recipe | StartRecipe)

    def work(stage: str, trained: float, generated: float, length: int, *, bound: bool = True) -> Workload:
        flops = trained * model.training_flops_per_token(length) + generated * model.forward_flops_per_token(length)
        return Workload(stage, trained, generated, length, flops, bound)

    if isinstance(recipe, Recipe):
        pretrain, extend = recipe.pretrain, recipe.extend
        yield work("pretrain", pretrain.tokens, 0, pretrain.sequence_length, bound=False)
        yield work("extend", extend.tokens, 0, extend.sequence_length, bound=False)

    conversations = recipe.conversations
    families = len(conversations.families)
    if sft := recipe.sft:
        answer = PROMPT + sft.max_new_tokens
        examples = families * conversations.sft_per_family
        if isinstance(recipe, StartRecipe) and recipe.factories:
            examples += sum(recipe.factories.records.values())
        yield work("sft", examples * sft.epochs * answer, 2 * sft.evaluation_prompts * answer, answer)

    prompts = families * conversations.preference_per_family
    made = 0
    if pairs := recipe.pairs:
        answer = PROMPT + pairs.max_new_tokens
        yield work("pairs", 0, prompts * pairs.samples * answer, answer)

        made = prompts * pairs.pairs_per_prompt
        if recipe.dpo:
            # Both answers are trained on; the reference policy reads each once.
            yield work("dpo", 2 * made * recipe.dpo.epochs * answer, 2 * made * answer, answer)

    if reward := recipe.reward:
        answer = PROMPT + reward.max_new_tokens
        asked = min(reward.prompts, prompts)
        policies = 2 if recipe.dpo else 1
        written = asked * reward.samples * len(reward.temperatures) * policies
        trained = 2 * (made + asked * reward.pairs_per_prompt) * reward.epochs
        yield work("reward", trained * answer, written * answer, answer)

    if grpo := recipe.grpo:
        answer = PROMPT + grpo.max_new_tokens
        rollouts = -(-grpo.steps // grpo.updates_per_rollout)
        written = rollouts * grpo.queries_per_rollout * grpo.group_size
        scored = families * conversations.rl_per_family * grpo.scoring_samples
        checks = -(-grpo.steps // grpo.evaluate_every) + 1
        evaluated = checks * grpo.evaluation_prompts * grpo.evaluation_samples
        # The reward model reads every answer; the reference policy does where the KL term counts.
        read = written * (bool(recipe.reward) + bool(grpo.kl_coefficient))
        yield work("grpo", written * answer, (written + read + scored + evaluated) * answer, answer)


def _study(recipe: StudyRecipe) -> Iterator[Workload]:
    """Runs that share their training are counted once; what an edge of a grid may add is not foreseen."""
    study, vocabulary = recipe.study, recipe.tokenizer.vocab_size
    longest, *others = sorted(study.tokens, reverse=True)
    families = len(study.learning_rates) * len(study.batch_tokens)
    swept = families * (longest + sum(others) * study.decay_ratio)

    def work(stage: str, shape: StudyShape, tokens: float) -> Workload:
        model = shape.model(vocabulary, study.sequence_length)
        flops = tokens * model.training_flops_per_token(study.sequence_length)
        return Workload(stage, tokens, 0, study.sequence_length, flops, False)

    for kind, sizes in study.kinds.items():
        for shape in sizes.shapes:
            yield work(f"sweep-{kind}-{shape.label}", shape, swept)
        yield work(f"held-out-{kind}", sizes.held_out, DIRECT_RUNS * study.held_out_tokens)


__all__ = ["PROMPT", "Workload", "workloads"]
