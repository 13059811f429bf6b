"""Stage ``mixture``: how often each document is seen, so that domains have the shares that the recipe wants.

Qwen2.5 (section 3.1) down-samples e-commerce, social media and entertainment, which web data has too much of in
templates and machine text, and up-samples technology, science and academic research. Repetition is capped:
beyond about four epochs repeated tokens are worth much less than new ones (arXiv 2305.16264).
"""

from pydantic import Field

from components.stage import Inputs, Run, StageConfig, Summary


class MixtureConfig(StageConfig):
    """Target shares in bytes."""

    factors: dict[str, float] = Field(
        default={
            "e-commerce": 0.3, "social": 0.3, "entertainment": 0.4,
            "technology": 2.0, "science": 2.0, "academic": 2.0,
        },
        description="domain -> factor on its natural share; 1 where absent",
    )  # fmt: skip
    shares: dict[str, float] = Field(
        default={
            "code": 0.15, "synthetic-math": 0.07, "synthetic-code": 0.04, "synthetic-knowledge": 0.04,
            "synthetic-retrieval": 0.12, "synthetic-recall": 0.1,
        },
        description="domain -> fixed share of the mixture; the other domains divide the rest",
    )  # fmt: skip
    budget_bytes: int = Field(16_000_000, ge=1, description="UTF-8 bytes of the whole mixture, copies included")
    maximum_copies: int = Field(4, ge=1, description="most times that one document is seen")
    quality_preference: float = Field(
        0.8, ge=0, le=1, description="1: strictly the best documents of a domain first; 0: any of them"
    )


def mix(config: MixtureConfig, inputs: Inputs, run: Run) -> Summary:
    """Write the documents of ``documents`` and ``synthetic`` that are used, with ``copies``, and ``mixture.json``."""
    from components.data.mixture_solver import write_mixture

    return write_mixture(config, inputs, run)
