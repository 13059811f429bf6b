"""Stage ``domains``: which domain each document belongs to.

Qwen2.5 (section 3.1) classifies web data with an instruct model to balance its mixture. As with quality, labels for a
part of the documents train a small classifier that labels all: labels come from what a source is known to hold, from
seed words (``domain_seeds``), or from a language model (``endpoint``, ``checkpoint``).
"""

from typing import Literal

from pydantic import Field

from components.data.judging import TeacherConfig
from components.stage import Inputs, Run, StageConfig, Summary

DOMAINS = (
    "technology", "science", "academic", "mathematics", "code", "encyclopaedia", "news", "fiction", "education",
    "law-finance", "e-commerce", "social", "entertainment", "other",
)  # fmt: skip


class DomainsConfig(StageConfig):
    """Who labels, and when a label is believed."""

    judge: Literal["bundled", "endpoint", "checkpoint"] = "bundled"
    teacher: TeacherConfig = Field(TeacherConfig(), description="the judge's model, unless bundled")
    judged_documents: int = Field(2_000, ge=50, description="documents that a language model labels")
    per_domain: int = Field(400, ge=10, description="most documents of a domain to learn that seed words label")
    per_source_domain: int = Field(
        60, ge=10, description="most that the source labels: what is left to classify seldom reads like those"
    )
    minimum_words: int = Field(2, ge=1, description="different seed words that make a label")
    minimum_confidence: float = Field(
        0.35, ge=0, le=1, description="probability below which a document is 'other', unless its source says"
    )


def classify_domains(config: DomainsConfig, inputs: Inputs, run: Run) -> Summary:
    """Write every document of ``documents`` with its ``domain``."""
    from components.data.domain_classifier import write_classified

    return write_classified(config, inputs, run)
