"""Low-rank adapters (LoRA, arXiv 2106.09685) through peft: what is trained is small, what is left is a whole model."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import Field

from components.stage import StageConfig, StageError

MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj")
"""Of every layer; the down projection takes two inputs (``model.feed_forward``) and keeps its weights."""


class LoraConfig(StageConfig):
    """Adapters on the matrices of attention and of the feed-forward network's first half."""

    rank: int = Field(16, ge=1, description="columns of an adapter")
    alpha: int = Field(32, gt=0, description="an adapter counts alpha / rank times")
    dropout: float = Field(0.0, ge=0, lt=1, description="of an adapter's input, in training")


@contextmanager
def adapted(model: Any, config: LoraConfig | None, seed: int) -> Iterator[None]:
    """Within, only the adapters of ``model`` are trained; at the end they are added to its matrices.

    None: the whole model is trained. An error leaves the adapters where they are. StageError without peft.
    """
    if config is None:
        yield
        return
    import torch

    try:
        import peft
    except ImportError:
        raise StageError("sft.lora: needs the package peft; pip install 'qwenforge[lora]'") from None
    settings = peft.LoraConfig(
        r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=list(MATRICES)
    )
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    with torch.random.fork_rng():  # for the adapters' first values and for dropout
        torch.manual_seed(seed)
        wrapper = peft.LoraModel(model.model, {"default": settings}, "default")
        yield
    wrapper.merge_and_unload()
    for parameter in trained:
        parameter.requires_grad_(True)


__all__ = ["LoraConfig", "adapted"]
