"""What a recipe may say: one table for each stage, checked as a whole before anything runs.

The models of the tables stand beside the stage functions that they configure.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from components.data.clean import CleanConfig
from components.data.decontaminate import DecontaminateConfig
from components.data.deduplicate import DeduplicateConfig
from components.data.domains import DomainsConfig
from components.data.ingest import IngestConfig
from components.data.mixture import MixtureConfig
from components.data.quality import QualityConfig
from components.data.shards import ShardsConfig
from components.data.synthetic import SyntheticConfig
from components.data.tokenizer import TokenizerConfig
from components.evaluation.ablation import AblationConfig
from components.evaluation.evaluate import EvaluationConfig
from components.evaluation.experts import ExpertsConfig
from components.evaluation.long_context import LongContextConfig
from components.evaluation.ngram import NgramConfig
from components.evaluation.report import ReportConfig
from components.preference.dpo import DPOConfig
from components.preference.grpo import GRPOConfig
from components.preference.pairs import PairsConfig
from components.preference.reward_model import RewardConfig
from components.scaling.study import StudyConfig
from components.scaling.sweep import ScalingConfig
from components.serving.export import ExportConfig
from components.serving.start import StartConfig
from components.sft.conversations import ConversationsConfig
from components.sft.factories.ablation import FactoryAblationConfig
from components.sft.factories.build import FactoriesConfig
from components.sft.fine_tune import SFTConfig
from components.sft.imported import ImportedConfig
from components.training.extend import ExtendConfig
from components.training.pretrain import PretrainConfig
from flows.recipe_file import RecipeError, read, validate


class AnyRecipe(BaseModel):
    """What every recipe has."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="short name; runs are called after it")
    description: str = ""
    seed: int = Field(0, ge=0, description="all randomness of all stages derives from it")

    conversations: ConversationsConfig = ConversationsConfig()
    evaluate: EvaluationConfig = EvaluationConfig()
    export: ExportConfig = ExportConfig()
    report: ReportConfig = ReportConfig()


class Recipe(AnyRecipe):
    """The whole path from raw documents to an aligned, evaluated model."""

    ingest: IngestConfig = IngestConfig()
    clean: CleanConfig = CleanConfig()
    deduplicate: DeduplicateConfig = DeduplicateConfig()
    quality: QualityConfig = QualityConfig()
    domains: DomainsConfig = DomainsConfig()
    synthetic: SyntheticConfig = SyntheticConfig()
    mixture: MixtureConfig = MixtureConfig()
    decontaminate: DecontaminateConfig = DecontaminateConfig()
    ablation: AblationConfig = AblationConfig()  # `qwenforge ablate`; no stage of the pipeline
    tokenizer: TokenizerConfig = TokenizerConfig()
    shards: ShardsConfig = ShardsConfig()
    scaling: ScalingConfig = ScalingConfig()
    pretrain: PretrainConfig
    extend: ExtendConfig
    factories: FactoriesConfig = FactoriesConfig()  # `qwenforge factories`; no stage of the pipeline
    factory_ablation: FactoryAblationConfig = FactoryAblationConfig()  # `qwenforge ablate-factories`; no stage either
    imported: ImportedConfig | None = None
    sft: SFTConfig = SFTConfig()
    pairs: PairsConfig = PairsConfig()
    dpo: DPOConfig = DPOConfig()
    reward: RewardConfig = RewardConfig()
    grpo: GRPOConfig = GRPOConfig()
    ngram: NgramConfig = NgramConfig()
    long_context: LongContextConfig | None = None  # measured where the table stands
    experts: ExpertsConfig | None = None  # measured where the table stands

    @model_validator(mode="after")
    def _stages_agree(self) -> Self:
        """What two stages must see alike, or the one cannot work with what the other has made."""
        equal = (
            ("tokenizer.held_out_share", self.tokenizer.held_out_share, "shards", self.shards.held_out_share),
            ("ngram.tokens_per_domain", self.ngram.tokens_per_domain, "evaluate", self.evaluate.tokens_per_domain),
            ("ngram.document_tokens", self.ngram.document_tokens, "evaluate", self.evaluate.document_tokens),
            ("reward.heldout_share", self.reward.heldout_share, "pairs", self.pairs.heldout_share),
        )
        for key, value, other, expected in equal:
            if value != expected:
                raise ValueError(f"{key}: expected {expected}, the same as in [{other}], got {value}")
        rows, tokens = self.pretrain.model.vocab_size, self.tokenizer.vocab_size
        if self.tokenizer.source == "train" and rows < tokens:
            raise ValueError(f"pretrain.model.vocab_size: expected at least tokenizer.vocab_size {tokens}, got {rows}")
        return self


class StartRecipe(AnyRecipe):
    """Post-training of a checkpoint that is there already. A stage of post-training runs where its table stands."""

    start: StartConfig
    factories: FactoriesConfig | None = None
    imported: ImportedConfig | None = None
    sft: SFTConfig | None = None
    pairs: PairsConfig | None = None
    dpo: DPOConfig | None = None
    reward: RewardConfig | None = None
    grpo: GRPOConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def _start_from_one_thing(cls, values: Any) -> Any:
        """[start] takes the place of everything up to the base model."""
        if made := [table for table in Recipe.model_fields if table in values and table not in cls.model_fields]:
            raise ValueError(
                f"[start] and [{made[0]}] exclude each other: a recipe starts from a checkpoint, or makes one"
            )
        return values

    @model_validator(mode="after")
    def _stages_agree(self) -> Self:
        """What a stage reads must be made."""
        for table, needs in (("factories", "sft"), ("imported", "sft"), ("dpo", "pairs"), ("reward", "pairs")):
            if getattr(self, table) is not None and getattr(self, needs) is None:
                raise ValueError(f"[{table}] needs [{needs}]; the table may be empty")
        if self.pairs and not (self.dpo or self.reward):
            raise ValueError("nothing reads the pairs of [pairs]; add [dpo] or [reward], which may be empty")
        if self.pairs and self.reward and self.reward.heldout_share != self.pairs.heldout_share:
            raise ValueError(
                f"reward.heldout_share: expected {self.pairs.heldout_share}, the same as in [pairs], "
                f"got {self.reward.heldout_share}"
            )
        if self.dpo and not self.sft and self.dpo.merging != "none":
            raise ValueError(
                f"dpo.merging: expected 'none' without [sft], since nothing has moved away from the checkpoint yet, "
                f"got {self.dpo.merging!r}"
            )
        if self.grpo and not self.reward and self.grpo.reward_model_weight:
            raise ValueError(
                f"grpo.reward_model_weight: expected 0 without [reward], got {self.grpo.reward_model_weight:g}"
            )
        return self


class StudyRecipe(AnyRecipe):
    """From raw documents to a scaling study; no model of it goes any further."""

    ingest: IngestConfig = IngestConfig()
    clean: CleanConfig = CleanConfig()
    deduplicate: DeduplicateConfig = DeduplicateConfig()
    quality: QualityConfig = QualityConfig()
    domains: DomainsConfig = DomainsConfig()
    synthetic: SyntheticConfig = SyntheticConfig()
    mixture: MixtureConfig = MixtureConfig()
    decontaminate: DecontaminateConfig = DecontaminateConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    shards: ShardsConfig = ShardsConfig()
    study: StudyConfig


AnyKind = Recipe | StartRecipe | StudyRecipe


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> AnyKind:
    """Read and check a recipe file; RecipeError says what is wrong with it and where."""
    tree, origins = read(path, overrides)
    if "start" in tree:
        return validate(path, StartRecipe, tree, origins)
    if "study" in tree:
        return validate(path, StudyRecipe, tree, origins)
    return validate(path, Recipe, tree, origins)


def load_whole_recipe(path: Path, overrides: Sequence[str], purpose: str) -> Recipe:
    """A recipe that makes its own data, which ``purpose`` is about."""
    recipe = load_recipe(path, overrides)
    if not isinstance(recipe, Recipe):
        other = "starts from a checkpoint" if isinstance(recipe, StartRecipe) else "is a scaling study"
        raise RecipeError(f"{path}: {purpose} needs a recipe with [pretrain]; this one {other}")
    return recipe


__all__ = ["AnyRecipe", "Recipe", "StartRecipe", "StudyRecipe", "load_recipe", "load_whole_recipe"]
