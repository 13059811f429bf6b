"""Checkpoints from one format into a model folder, tensor by tensor: memory holds a piece, not a model.

A folder that was converted is in the format of published Qwen2.5 checkpoints, or of a Llama's where its tokenizer asks
for that, so the rest of the platform, ``transformers`` and serving engines read it alike.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from model.checkpoint import write_config
from model.config import ModelFormatError
from model.sources import FolderSource, Source, check_source, finite_pieces
from model.sparse_prefill import SparsePrefill
from model.tensor_files import SHARD_BYTES, write_tensors
from model.tokenizer import Tokenizer
from model.written_form import written_form

Advance = Callable[[int], None]


def open_source(path: Path) -> Source:
    """A model folder, or a GGUF file (the first of its parts where it was split)."""
    if path.is_dir():
        return FolderSource(path)
    if not path.is_file():
        raise ModelFormatError(f"{path}: no such file or folder")
    from model.gguf_source import GGUFSource

    return GGUFSource(path)


def convert(
    source: Source,
    folder: Path,
    *,
    dtype: torch.dtype | None = None,
    shard_bytes: int = SHARD_BYTES,
    advance: Advance = lambda size: None,
) -> None:
    """Write ``source`` as a model folder, in ``dtype`` or in the types that it has. ``advance`` is told the bytes
    written, ``converted_bytes`` in all. Raises ModelFormatError before a tensor is written where names and shapes are
    wrong, or at the tensor that holds NaN or does not fit ``dtype``.
    """
    entries = check_source(source)
    tokenizer = source.tokenizer()
    if tokenizer is not None:
        check_vocabulary(source, tokenizer)
    written = {name: replace(entry, dtype=dtype or entry.dtype) for name, entry in entries.items()}

    def pieces(name: str) -> Iterator[Tensor]:
        for piece in finite_pieces(source, name):
            converted = piece.to(written[name].dtype)
            if converted.dtype == torch.float16 and not torch.isfinite(converted).all():
                raise ModelFormatError(f"{source.origin}: {name} holds values beyond float16's 65504; take bfloat16")
            yield converted
            advance(converted.nbytes)

    form = written_form(source.config, tokenizer, written, source.pieces)
    write_config(folder, form.values, written["model.embed_tokens.weight"].dtype, tokenizer)
    if isinstance(source, FolderSource) and (sparse := SparsePrefill.read_from(source.folder, source.config)):
        sparse.write(folder)
    write_tensors(folder, form.entries, pieces, zeros=form.zeros, shard_bytes=shard_bytes)


def check_vocabulary(source: Source, tokenizer: Tokenizer) -> None:
    """Raises ModelFormatError where the tokenizer writes tokens that the embeddings have no row for."""
    if tokenizer.vocab_size > source.config.vocab_size:
        raise ModelFormatError(
            f"{source.origin}: the tokenizer has {tokenizer.vocab_size} tokens, "
            f"the embeddings have {source.config.vocab_size} rows (vocab_size)"
        )


def converted_bytes(source: Source, dtype: torch.dtype | None = None) -> int:
    """What ``convert`` will write of tensors."""
    return sum(replace(entry, dtype=dtype or entry.dtype).bytes for entry in source.entries.values())
