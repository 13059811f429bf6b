"""What a recipe may say: one table for each stage, checked as a whole before anything runs.

The models of the tables stand beside the stage functions that they configure.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

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
from components.evaluation.ngram import NgramConfig
from components.evaluation.report import ReportConfig
from components.preference.dpo import DPOConfig
from components.preference.grpo import GRPOConfig
from components.preference.pairs import PairsConfig
from components.preference.reward_model import RewardConfig
from components.scaling.sweep import ScalingConfig
from components.serving.export import ExportConfig
from components.sft.conversations import ConversationsConfig
from components.sft.factories.build import FactoriesConfig
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
    ablation: AblationConfig = AblationConfig()  # `qwenforge ablate`; no stage of the pipeline
    tokenizer: TokenizerConfig = TokenizerConfig()
    shards: ShardsConfig = ShardsConfig()
    scaling: ScalingConfig = ScalingConfig()
    pretrain: PretrainConfig
    extend: ExtendConfig
    conversations: ConversationsConfig = ConversationsConfig()
    factories: FactoriesConfig = FactoriesConfig()  # `qwenforge factories`; no stage of the pipeline
    sft: SFTConfig = SFTConfig()
    pairs: PairsConfig = PairsConfig()
    dpo: DPOConfig = DPOConfig()
    reward: RewardConfig = RewardConfig()
    grpo: GRPOConfig = GRPOConfig()
    ngram: NgramConfig = NgramConfig()
    evaluate: EvaluationConfig = EvaluationConfig()
    export: ExportConfig = ExportConfig()
    report: ReportConfig = ReportConfig()

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


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe file; RecipeError says what is wrong with it and where."""
    return load(path, Recipe, overrides)


__all__ = ["Recipe", "load_recipe"]
