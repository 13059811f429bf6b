"""Stage ``synthetic``: mathematics, code, knowledge, retrieval and recall, kept only where verification agrees.

Qwen2.5 (section 3.1) writes synthetic data with large models and keeps what reward models rate well. Here every
candidate is checked by something that can be wrong only if it is broken: a task family's own scorer and its
arithmetic, execution in the sandbox, the source text. The default writer is procedural and slips on purpose in
``error_share`` of its candidates, so that the verification itself is measured in every run.
"""

import operator
from typing import Literal

from pydantic import Field, model_validator

from components.data.judging import TeacherConfig
from components.stage import Inputs, Run, StageConfig, Summary


class SyntheticConfig(StageConfig):
    """How much of each kind, in UTF-8 bytes that are kept."""

    mathematics_bytes: int = Field(1_200_000, ge=0)
    code_bytes: int = Field(600_000, ge=0)
    knowledge_bytes: int = Field(600_000, ge=0)
    retrieval_bytes: int = Field(2_500_000, ge=0)
    recall_bytes: int = Field(600_000, ge=0)
    families: dict[str, dict[str, int | float | str]] = Field(
        default={
            "chain_sum": {"max_terms": 4, "max_digits": 2},
            "basic_arithmetic": {"max_terms": 4, "max_digits": 2},
            "gcd": {"max_value": 100},
            "lcm": {"max_value": 30},
            "products": {"max_digits": 2},
            "fraction_simplification": {"max_value": 40, "max_factor": 12, "styles": "plain"},
            "simple_equations": {"max_value": 20},
            "number_sorting": {"max_numbers": 6, "max_decimals": 0},
            "gsm_symbolic": {},
        },
        description="reasoning_gym family -> settings of its generator",
    )
    retrieval_characters: tuple[int, ...] = Field(
        (700, 3_100), description="sizes of retrieval documents, in equal shares of bytes"
    )
    writer: Literal["procedural", "endpoint", "checkpoint"] = Field(
        "procedural", description="who writes solutions in mathematics; the others are procedural"
    )
    error_share: float = Field(0.15, ge=0, lt=1, description="share of procedural candidates with a planted error")
    teacher: TeacherConfig = Field(TeacherConfig(), description="the writer's and the reward's model, where used")
    minimum_reward: float = Field(
        0.0, ge=0, le=1, description="reward filter on verified candidates, rated by `teacher`; 0: off"
    )

    # At their defaults these are not part of the dump, so that cache keys stay as they were before there were any.
    textbook_bytes: int = Field(
        0, ge=0, description="textbook passages that `teacher` writes from documents", exclude_if=operator.not_
    )
    problem_bytes: int = Field(
        0, ge=0, description="mathematics of which `teacher` writes the problems as well", exclude_if=operator.not_
    )
    program_bytes: int = Field(
        0, ge=0, description="functions with tests that `teacher` writes", exclude_if=operator.not_
    )
    most_alike: float = Field(
        1.0, gt=0, le=1, exclude_if=lambda value: value == 1,
        description="texts of a kind that share more of their 3-word shingles with an earlier one are dropped",
    )  # fmt: skip
    minimum_mathematics_reward: float = Field(
        0.0, ge=0, le=1, description="reward filter on mathematics, rated by `mathematics_teacher`; 0: off",
        exclude_if=operator.not_,
    )  # fmt: skip
    mathematics_teacher: TeacherConfig | None = Field(
        None, description="the mathematics reward's model; `teacher` where absent", exclude_if=operator.not_
    )

    @model_validator(mode="after")
    def check_writer(self) -> "SyntheticConfig":
        if self.writer == "procedural" and (self.textbook_bytes or self.problem_bytes or self.program_bytes):
            raise ValueError(
                "textbook_bytes, problem_bytes and program_bytes are written by a model: set writer to 'endpoint' or "
                "'checkpoint' and say which in teacher"
            )
        return self


def synthesize(config: SyntheticConfig, inputs: Inputs, run: Run) -> Summary:
    """Write verified synthetic documents; ``documents`` supplies passages and filler."""
    from components.data.synthesis import write_synthetic

    return write_synthetic(config, inputs, run)
