"""Stage ``tokenizer``: trains a byte-level BPE on the mixture, or takes the published vocabulary.

Qwen2.5 (section 2): byte-level BPE, digits one by one, 22 control tokens, one vocabulary for a family of models.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field

from components.stage import Inputs, Run, StageConfig, Summary


class TokenizerConfig(StageConfig):
    """Where the vocabulary comes from."""

    source: Literal["train", "qwen", "folder"] = Field(
        "train", description="train on the mixture; qwen: the published 151,643 tokens; folder: `folder`"
    )
    folder: Path | None = Field(None, description="Hugging Face tokenizer folder, for source = 'folder'")
    vocab_size: int = Field(4096, ge=300, description="rows with the 22 control tokens, for source = 'train'")
    sample_bytes: int = Field(6_000_000, ge=10_000, description="most UTF-8 bytes of text to train on")
    held_out_share: float = Field(
        0.04, gt=0, lt=1, description="share of documents only measured on; keep equal to shards.held_out_share"
    )
    measured_bytes: int = Field(500_000, ge=1_000, description="most held-out bytes to measure on")


def train_tokenizer(config: TokenizerConfig, inputs: Inputs, run: Run) -> Summary:
    """Write a Hugging Face tokenizer folder and measure its bytes per token on held-out text."""
    from components.data.tokenizer_training import write_tokenizer

    return write_tokenizer(config, inputs, run)
