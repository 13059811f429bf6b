"""Stage ``quality``: scores every document on five dimensions and drops the worst.

Qwen2.5 (section 3.1) lets an instruct model judge documents on several dimensions. Judging all of them is expensive,
so a judge labels a sample and a small classifier, distilled from its labels, scores everything. The judge is a
language model (``endpoint``, ``checkpoint``) or ``bundled``: contrasts that need no model, see ``quality_judges``.
"""

from typing import Literal

from pydantic import Field

from components.data.judging import TeacherConfig
from components.stage import Inputs, Run, StageConfig, Summary

DIMENSIONS = ("educational", "coherence", "factual", "cleanliness", "harmlessness")


class QualityConfig(StageConfig):
    """Who judges, and what is dropped."""

    judge: Literal["bundled", "endpoint", "checkpoint"] = "bundled"
    teacher: TeacherConfig = Field(TeacherConfig(), description="the judge's model, unless bundled")
    judged_documents: int = Field(2_000, ge=50, description="documents that the judge labels, for each dimension")
    weights: dict[str, float] = Field(
        default={"educational": 0.25, "coherence": 0.25, "factual": 0.15, "cleanliness": 0.25, "harmlessness": 0.1},
        description="weight of each dimension in the overall score",
    )
    keep_share: float = Field(0.92, gt=0, le=1, description="share of all documents above the common threshold")
    most_dropped_share: float = Field(
        0.25, ge=0, le=1, description="largest share that any language and source kind may lose to the threshold"
    )


def score_quality(config: QualityConfig, inputs: Inputs, run: Run) -> Summary:
    """Write the kept ``documents`` with their scores, and ``samples.jsonl`` of kept and dropped ones."""
    from components.data.quality_scoring import write_scored

    return write_scored(config, inputs, run)
