"""Quantised checkpoints as folders in torchao's safetensors layout, never a pickle: written tensor by tensor.

Only the matrices inside the layers are quantised: embeddings, output matrix, norms, biases and routers keep their type.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model.checkpoint import write_config
from model.config import ModelFormatError
from model.feed_forward import FeedForward
from model.hf_config import config_from_hf, has_biases
from model.moe import MoE
from model.quantization import GROUP, Bits, QuantizedLinear, SplitExperts, need_torchao, quantise
from model.sources import Source, check_source, finite_pieces, layout, read_config
from model.tensor_files import SHARD_BYTES, Entry, TensorFiles, write_tensors
from model.transformer import Transformer
from model.written_form import written_form

METHOD = "torchao"


def export_quantized(
    source: Source,
    folder: Path,
    bits: Bits,
    *,
    shard_bytes: int = SHARD_BYTES,
    advance: Callable[[int], None] = lambda size: None,
) -> None:
    """Write ``source`` quantised, tensor by tensor, as a folder that ``load_quantized`` and ``transformers`` read.

    ``advance`` is told the bytes written. Raises ModelFormatError for what is wrong with the source.
    """
    tokenizer = source.tokenizer()
    form = written_form(source.config, tokenizer, check_source(source), source.pieces)
    written = dict[str, Entry]()
    origin: dict[str, tuple[str, str]] = {}  # name in the file -> tensor, its part
    metadata: dict[str, str] = {}
    for name, entry in form.entries.items():
        parts = {"": torch.empty(entry.shape, dtype=entry.dtype, device="meta")}
        if _is_quantised(name, entry.shape, bits):
            parts, told = _flat(name, _empty(entry, bits))
            metadata |= told
        else:
            metadata[name] = json.dumps({"_type": "Tensor"})
        for part, tensor in parts.items():
            file_name = _part_name(name, part)
            written[file_name] = Entry(tuple(tensor.shape), tensor.dtype)
            origin[file_name] = name, part
    metadata["tensor_names"] = json.dumps(list(form.entries))

    def pieces(file_name: str) -> Iterator[Tensor]:
        name, part = origin[file_name]
        # Parts of one matrix lie apart in the file, so it is quantised once for each of them: time for memory.
        read: Iterable[Tensor] = finite_pieces(source, name)
        if part:
            quantised = quantise(torch.cat(list(read)), bits)
            read = [getattr(quantised, part)]
        for piece in read:
            yield piece
            advance(piece.nbytes)

    values = form.values | {"quantization_config": _description(bits)}
    write_config(folder, values, form.entries["model.embed_tokens.weight"].dtype, tokenizer)
    write_tensors(folder, written, pieces, zeros=form.zeros, shard_bytes=shard_bytes, metadata=metadata)


def quantised_bytes(source: Source, bits: Bits) -> int:
    """What ``export_quantized`` will write of tensors."""
    total = 0
    for name, entry in source.entries.items():
        if _is_quantised(name, entry.shape, bits):
            total += sum(part.nbytes for part in _flat(name, _empty(entry, bits))[0].values())
        else:
            total += entry.bytes
    return total


def load_quantized(folder: Path, device: torch.device | str, dtype: torch.dtype) -> Transformer:
    """The model of a folder that ``export_quantized`` wrote; ``dtype`` of all that is not quantised.

    Raises ModelFormatError by the name of a tensor that is missing, unexpected, misshapen or not finite.
    """
    need_torchao()
    from torchao.prototype.safetensors.safetensors_support import unflatten_tensor_state_dict

    values = read_config(folder)
    config = config_from_hf(values, str(folder / "config.json"))
    files = TensorFiles(folder)
    with torch.device("meta"):
        model = Transformer(config)
    for layer in model.layers:
        if isinstance(layer.mlp, MoE) and config.moe:
            width = config.moe.moe_intermediate_size
            experts: Any = SplitExperts(FeedForward(config.hidden_size, width) for _ in range(config.moe.num_experts))
            layer.mlp.experts = experts
    shapes, used = layout(config), set[str]()
    for name, shape in shapes.items():
        if name.endswith("_proj.bias") and not has_biases(values):
            _put(model, name, torch.zeros(shape, dtype=dtype, device=device), dtype)
            continue
        told = json.loads(files.metadata.get(name, "{}"))
        parts = {_part_name(name, part): part for part in told.get("_tensor_data_names", [""])}
        if missing := [part for part in parts if part not in files.entries]:
            raise ModelFormatError(f"{folder}: missing tensor {missing[0]}")
        used |= parts.keys()
        tensors = {part: files.read(part).to(device) for part in parts}
        for part, tensor in tensors.items():
            if not torch.isfinite(tensor).all():
                raise ModelFormatError(f"{folder}: {part} holds NaN or infinite values")
        if told.get("_tensor_data_names"):
            about = {"tensor_names": json.dumps([name]), name: files.metadata[name]}
            try:
                found = unflatten_tensor_state_dict(tensors, about)[0][name]
            except (ValueError, KeyError, TypeError) as error:
                raise ModelFormatError(f"{folder}: {name} is not quantised as its metadata says: {error}") from error
        else:
            found = tensors[name].to(dtype)
        if tuple(found.shape) != shape:
            raise ModelFormatError(f"{folder}: {name} has shape {tuple(found.shape)}, the config says {shape}")
        _put(model, name, found, dtype)
    if values["model_type"] == "llama":
        used |= {name for name in files.entries if name.endswith("o_proj.bias") and not files.read(name).any()}
    if extra := sorted(files.entries.keys() - used):
        raise ModelFormatError(f"{folder}: unexpected tensor {extra[0]}, which the config does not call for")
    model.reset_rotation(device)
    return model


def is_quantized(values: dict[str, Any]) -> bool:
    """Whether ``config.json`` is that of a folder for ``load_quantized``."""
    return dict(values.get("quantization_config") or {}).get("quant_method") == METHOD


# ---- torchao's layouts ----------------------------------------------------------------------------------


def _is_quantised(name: str, shape: tuple[int, ...], bits: Bits) -> bool:
    inside = name.startswith("model.layers.") and name.endswith("_proj.weight")
    return inside and (bits == "int8" or shape[1] % GROUP == 0)


def _empty(entry: Entry, bits: Bits) -> Tensor:
    """A quantised tensor of this shape without memory, to learn what its parts are."""
    need_torchao()
    from torchao.quantization import Int4Tensor, Int8Tensor

    rows, columns = entry.shape
    empty = partial(torch.empty, device="meta")
    if bits == "int8":
        qdata, scale = empty(rows, columns, dtype=torch.int8), empty(rows, 1, dtype=torch.float32)
        return Int8Tensor(qdata, scale, [1, columns], entry.dtype, zero_point=empty(rows, 1, dtype=torch.int8))
    scale = empty(columns // GROUP, rows, dtype=torch.bfloat16)
    qdata = empty(rows, columns // 2, dtype=torch.int8)
    return Int4Tensor(qdata, scale, scale, [1, GROUP], torch.Size(entry.shape))


def _flat(name: str, quantised: Tensor) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Its parts, and what torchao wants to be told about them in the file."""
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict

    tensors, metadata = flatten_tensor_state_dict({name: quantised})
    names = {_part_name(name, part): part for part in json.loads(metadata[name])["_tensor_data_names"]}
    return {names[key]: tensor for key, tensor in tensors.items()}, {name: metadata[name]}


def _part_name(name: str, part: str) -> str:
    """``mlp.up_proj.weight``, ``scale`` -> ``mlp.up_proj._weight_scale``."""
    module, _, leaf = name.rpartition(".")
    return f"{module}._{leaf}_{part}" if part else name


def _description(bits: Bits) -> dict[str, Any]:
    """``quantization_config`` for ``transformers``."""
    from torchao.core.config import config_to_dict
    from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig

    config = Int8WeightOnlyConfig() if bits == "int8" else Int4WeightOnlyConfig(group_size=GROUP)
    return {
        "quant_method": METHOD,
        "quant_type": {"default": config_to_dict(config)},
        "modules_to_not_convert": ["lm_head"],
    }


def _put(model: Transformer, name: str, value: Tensor, dtype: torch.dtype) -> None:
    """Set a parameter; a linear layer whose matrix is quantised becomes a ``QuantizedLinear``."""
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    if type(value) is not Tensor and not isinstance(value, nn.Parameter):
        parent, _, own = path.rpartition(".")
        setattr(model.get_submodule(parent), own, QuantizedLinear(value, dtype))
    elif isinstance(module, QuantizedLinear):
        module.bias = nn.Parameter(value, requires_grad=False)
    else:
        setattr(module, leaf, nn.Parameter(value, requires_grad=False))
