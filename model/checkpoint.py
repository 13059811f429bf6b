"""Model folders in the Hugging Face layout: config.json, safetensors (one file or shards), generation_config.json.

What is read is checked tensor by tensor (``model.sources``), so a wrong file fails here, by name.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from model.config import ModelConfig
from model.hf_config import config_from_hf
from model.sources import FolderSource, Source, check_source, expert_names, finite_pieces, read_config
from model.sparse_prefill import SparsePrefill
from model.tensor_files import INDEX, SHARD_BYTES, WEIGHTS, Entry, write_json, write_tensors
from model.transformer import Transformer
from model.written_form import written_form

if TYPE_CHECKING:
    from model.tokenizer import Tokenizer


def save_model(
    folder: Path | str, model: Transformer, tokenizer: "Tokenizer | None" = None, *, shard_bytes: int = SHARD_BYTES
) -> None:
    """Write a folder that ``load_model`` and ``transformers`` load; equal models give equal bytes."""
    folder = Path(folder)
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        parts = expert_names(name, model.config)
        tensors |= dict(zip(parts, tensor, strict=True)) if parts else {name: tensor}
    entries = {name: Entry(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}

    def pieces(name: str) -> Iterable[Tensor]:
        yield tensors[name].detach().cpu()

    form = written_form(model.config, tokenizer, entries, pieces)
    write_config(folder, form.values, model.output_weight.dtype, tokenizer)
    if isinstance(model.sparse_prefill, SparsePrefill):
        model.sparse_prefill.write(folder)
    write_tensors(folder, form.entries, pieces, zeros=form.zeros, shard_bytes=shard_bytes)


def write_config(folder: Path, values: dict[str, Any], dtype: torch.dtype, tokenizer: "Tokenizer | None") -> None:
    """Everything of a model folder but its weights; ``values`` of ``config.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    written = str(dtype).removeprefix("torch.")
    values = values | {"dtype": written, "torch_dtype": written}
    if tokenizer is not None:
        stops = list(dict.fromkeys((tokenizer.im_end_id, tokenizer.eos_id)))
        values |= {"bos_token_id": None, "eos_token_id": tokenizer.im_end_id, "pad_token_id": tokenizer.eos_id}
        generation = {"do_sample": False, "eos_token_id": stops, "pad_token_id": tokenizer.eos_id}
        write_json(folder / "generation_config.json", generation)
        tokenizer.save(folder)
    write_json(folder / "config.json", values)


def load_config(folder: Path | str) -> ModelConfig:
    """``config.json`` of a model folder."""
    folder = Path(folder)
    return config_from_hf(read_config(folder), str(folder / "config.json"))


def load_model(
    folder: Path | str, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Transformer:
    """Read a model folder, quantised or not, every tensor checked for its name, shape and NaN (ModelFormatError)."""
    from model.quantized_folder import is_quantized, load_quantized

    folder = Path(folder)
    if is_quantized(read_config(folder)):
        model = load_quantized(folder, device, dtype)
    else:
        model = load_source(FolderSource(folder), device, dtype)
    model.sparse_prefill = SparsePrefill.read_from(folder, model.config)
    return model


def load_source(source: Source, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Transformer:
    """The model of a checkpoint in any format, checked likewise."""
    entries = check_source(source)
    with torch.device("meta"):
        model = Transformer(source.config)
    state = {name: torch.empty(tensor.shape, dtype=dtype, device=device) for name, tensor in model.state_dict().items()}
    targets: dict[str, Tensor] = {}
    for name, tensor in state.items():
        parts = expert_names(name, source.config)
        targets |= dict(zip(parts, tensor, strict=True)) if parts else {name: tensor}
    for name in entries:
        row = 0
        for piece in finite_pieces(source, name):
            targets[name][row : row + len(piece)] = piece
            row += len(piece)
    model.load_state_dict(state, assign=True)
    model.reset_rotation(device)
    return model


__all__ = ["INDEX", "WEIGHTS", "load_config", "load_model", "load_source", "save_model", "write_config"]
