"""Writing GGUF files: a checkpoint as llama.cpp and what is built on it read it, in one file, tensor by tensor."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from gguf import GGML_QUANT_VERSION, GGMLQuantizationType, GGUFWriter, LlamaFileType
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import quantize
from torch import Tensor

from model.config import ModelFormatError
from model.gguf_metadata import architecture_of, write_config, write_tokenizer
from model.gguf_names import to_gguf
from model.sources import Source, check_source, finite_pieces

Kind = Literal["float32", "float16", "bfloat16", "int8", "int4"]

_PLAIN = {
    "float32": GGMLQuantizationType.F32,
    "float16": GGMLQuantizationType.F16,
    "bfloat16": GGMLQuantizationType.BF16,
}
_QUANTISED = {"int8": GGMLQuantizationType.Q8_0, "int4": GGMLQuantizationType.Q4_1}
_FILE_TYPES = {
    "float32": LlamaFileType.ALL_F32,
    "float16": LlamaFileType.MOSTLY_F16,
    "bfloat16": LlamaFileType.MOSTLY_BF16,
    "int8": LlamaFileType.MOSTLY_Q8_0,
    "int4": LlamaFileType.MOSTLY_Q4_1,
}
_EMBEDDINGS = ("token_embd.weight", "output.weight")


def export_gguf(
    source: Source, path: Path, kind: Kind | None = None, *, advance: Callable[[int], None] = lambda elements: None
) -> None:
    """Write ``source`` to ``path``. ``kind``: type of the matrices, by default that of the embeddings; int8 is Q8_0 and
    int4 is Q4_1 (blocks of 32 with a float16 scale and offset), embeddings then Q8_0. Vectors, routers stay float32.

    ``advance`` is told the numbers written. Raises ModelFormatError for what GGUF cannot say, and for NaN.
    """
    entries = check_source(source)
    if kind is None:
        kind = _kind_of(entries["model.embed_tokens.weight"].dtype)
    stacks: dict[str, list[str]] = {}
    for name in entries:
        stacks.setdefault(to_gguf(name).name, []).append(name)
    writer = GGUFWriter(path, architecture_of(source.config, source.origin))
    writer.add_type("model")
    writer.add_file_type(_FILE_TYPES[kind])
    writer.add_quantization_version(GGML_QUANT_VERSION)
    write_config(writer, source.config)
    tokenizer = source.tokenizer()
    if tokenizer is not None:
        write_tokenizer(writer, tokenizer, source.config.vocab_size, source.origin)
    plan: dict[str, tuple[GGMLQuantizationType, list[str]]] = {}
    for name, parts in stacks.items():
        shape = entries[parts[0]].shape
        shape = (len(parts), *shape) if to_gguf(parts[0]).expert is not None else shape
        shape = shape[1:] if name.endswith("ffn_gate_inp_shexp.weight") else shape  # (1, H) is a vector there
        type_ = _type(name, shape, kind)
        block, block_bytes = GGML_QUANT_SIZES[type_]
        row = shape[-1] // block * block_bytes
        bytes_ = int(np.prod(shape[:-1], dtype=np.int64)) * row
        writer.add_tensor_info(name, (*shape[:-1], row), np.dtype(np.uint8), bytes_, raw_dtype=type_)
        plan[name] = type_, parts
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for type_, parts in plan.values():
            encoded = []
            for part in parts:
                for piece in finite_pieces(source, part):
                    encoded.append(_encoded(piece, type_, f"{source.origin}: {part}"))
                    advance(piece.numel())
            writer.write_tensor_data(np.concatenate(encoded))
    finally:
        writer.close()


def _type(name: str, shape: tuple[int, ...], kind: Kind) -> GGMLQuantizationType:
    if len(shape) == 1 or name.endswith("ffn_gate_inp.weight"):
        return GGMLQuantizationType.F32
    if kind in _PLAIN:
        return _PLAIN[kind]
    type_ = _QUANTISED["int8"] if name in _EMBEDDINGS else _QUANTISED[kind]
    return type_ if shape[-1] % GGML_QUANT_SIZES[type_][0] == 0 else GGMLQuantizationType.F16


def _encoded(piece: Tensor, type_: GGMLQuantizationType, what: str) -> np.ndarray:
    """The bytes of some rows, flat."""
    if type_ == GGMLQuantizationType.BF16:
        return piece.to(torch.bfloat16).contiguous().reshape(-1).view(torch.uint8).numpy()
    values = piece.float().contiguous()
    if type_ in _PLAIN.values():
        converted = values.half() if type_ == GGMLQuantizationType.F16 else values
        if not torch.isfinite(converted).all():
            raise ModelFormatError(f"{what} holds values beyond float16's 65504; take bfloat16")
        return converted.reshape(-1).view(torch.uint8).numpy()
    with np.errstate(divide="ignore", invalid="ignore"):  # a block of equal values: the package handles it
        return quantize(values.numpy(), type_).reshape(-1)


def _kind_of(dtype: torch.dtype) -> Kind:
    known: dict[torch.dtype, Kind] = {torch.float16: "float16", torch.bfloat16: "bfloat16"}
    return known.get(dtype, "float32")
