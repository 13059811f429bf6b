"""Which language model judges or writes, as recipes name it. The model itself is behind ``components.teacher``."""

import operator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from components.stage import Run, StageConfig

if TYPE_CHECKING:
    from components.teacher import Teacher


class TeacherConfig(StageConfig):
    """An OpenAI-compatible endpoint or a local checkpoint. The key comes from the environment, never from here."""

    endpoint: str = Field("http://localhost:8000/v1", description="base URL, for 'endpoint'")
    model: str = Field("Qwen/Qwen2.5-7B-Instruct", description="name of the model at the endpoint")
    checkpoint: Path | None = Field(None, description="Hugging Face model folder, for 'checkpoint'")
    budget_tokens: int = Field(5_000_000, ge=1, description="prompt and answer tokens before the stage stops asking")
    concurrency: int = Field(16, ge=1, description="requests in flight")
    prompt_price: float = Field(
        0.0, ge=0, description="of a million prompt tokens, in any currency", exclude_if=operator.not_
    )
    answer_price: float = Field(0.0, ge=0, description="of a million answer tokens", exclude_if=operator.not_)


def make_teacher(kind: Literal["endpoint", "checkpoint"], config: TeacherConfig, run: Run) -> "Teacher":
    """The teacher that ``kind`` names, with its answers cached in ``run.state``."""
    from components.teacher import CheckpointTeacher, EndpointTeacher

    if kind == "endpoint":
        return EndpointTeacher(
            config.endpoint, config.model, run.state / "teacher", config.budget_tokens, config.concurrency
        )
    return CheckpointTeacher(config.checkpoint, run.device, cache=run.state / "teacher")
