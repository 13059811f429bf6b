"""What a recipe may say: one table for each stage, checked as a whole before anything runs.

The models of the tables stand beside the stage functions that they configure.
"""

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

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
from components.evaluation.evaluate import EvaluationConfig
from components.evaluation.report import ReportConfig
from components.preference.dpo import DPOConfig
from components.preference.grpo import GRPOConfig
from components.preference.pairs import PairsConfig
from components.preference.reward_model import RewardConfig
from components.scaling.sweep import ScalingConfig
from components.serving.export import ExportConfig
from components.sft.conversations import ConversationsConfig
from components.sft.fine_tune import SFTConfig
from components.training.extend import ExtendConfig
from components.training.pretrain import PretrainConfig
from flows.recipe_file import load


class Recipe(BaseModel):
    """The whole path from raw documents to an aligned, evaluated model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="short name; runs are called after it")
    description: str = ""
    seed: int = Field(0, ge=0, description="all randomness of all stages derives from it")

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
    scaling: ScalingConfig = ScalingConfig()
    pretrain: PretrainConfig
    extend: ExtendConfig = ExtendConfig()
    conversations: ConversationsConfig = ConversationsConfig()
    sft: SFTConfig = SFTConfig()
    pairs: PairsConfig = PairsConfig()
    dpo: DPOConfig = DPOConfig()
    reward: RewardConfig = RewardConfig()
    grpo: GRPOConfig = GRPOConfig()
    evaluate: EvaluationConfig = EvaluationConfig()
    export: ExportConfig = ExportConfig()
    report: ReportConfig = ReportConfig()


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe file; RecipeError says what is wrong with it and where."""
    return load(path, Recipe, overrides)


__all__ = ["Recipe", "load_recipe"]
