"""Checkpoints of other makers as artifacts of this platform: a folder or a GGUF file in, a checked model folder out."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from components.stage import Progress, StageConfig, StageError, Summary
from model.config import ModelFormatError

MEBIBYTE = 2**20
Bars = Callable[..., AbstractContextManager[Progress]]
"""``Run.progress``: (total, description, unit=...)."""


class ImportConfig(StageConfig):
    """How to take a checkpoint in."""

    dtype: Literal["float32", "float16", "bfloat16"] | None = Field(
        None, description="type of the weights; None keeps their own, and dequantises to float32"
    )
    shard_megabytes: int = Field(5_000, ge=1, description="most bytes of one weight file, in millions")


class Mebibytes:
    """Tells a bar of MiB what passes in bytes."""

    def __init__(self, bar: Progress) -> None:
        self._bar, self._bytes = bar, 0

    def __call__(self, size: int) -> None:
        before = self._bytes // MEBIBYTE
        self._bytes += size
        if moved := self._bytes // MEBIBYTE - before:
            self._bar.advance(moved)


def import_checkpoint(config: ImportConfig, source: Path, output: Path, progress: Bars) -> Summary:
    """Write the checkpoint at ``source`` (a folder in Hugging Face layout, or a GGUF file) to the folder ``output``.

    Raises StageError, naming file and tensor or key, for what is damaged or has no counterpart here.
    """
    import torch

    from model.conversion import convert, converted_bytes, open_source

    dtype = getattr(torch, config.dtype) if config.dtype else None
    try:
        opened = open_source(source)
        tokenizer = opened.tokenizer()
        if tokenizer is None:
            raise StageError(f"{source}: holds no tokenizer (tokenizer.json), without which no text can be read")
        with progress(converted_bytes(opened, dtype) // MEBIBYTE, "import", unit="MiB") as bar:
            convert(opened, output, dtype=dtype, shard_bytes=config.shard_megabytes * 10**6, advance=Mebibytes(bar))
    except ModelFormatError as error:
        raise StageError(str(error)) from error
    shape = opened.config
    facts: dict[str, Any] = {
        "source": source.name,
        "format": "gguf" if source.is_file() else "hf",
        "parameters": shape.num_parameters(),
        "active_parameters": shape.num_active_parameters(),
        "context_length": shape.max_position_embeddings,
        "vocab_size": shape.vocab_size,
        "tokens": tokenizer.vocab_size,
        "conversations": tokenizer.has_conversations,
    }
    return facts


__all__ = ["MEBIBYTE", "Bars", "ImportConfig", "Mebibytes", "ModelFormatError", "import_checkpoint"]
