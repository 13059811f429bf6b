"""Model folders in the Hugging Face layout: config.json, safetensors (one file or shards), generation_config.json.

What is read is checked tensor by tensor, so a wrong file fails here, by name, and never later as strange text.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from model.config import ModelConfig, ModelFormatError
from model.sparse_prefill import SparsePrefill
from model.transformer import Transformer

if TYPE_CHECKING:
    from model.tokenizer import Tokenizer

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def save_model(folder: Path | str, model: Transformer, tokenizer: "Tokenizer | None" = None) -> None:
    """Write a folder that ``load_model`` and ``transformers`` load; equal models give equal bytes."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        parts = _expert_names(name, model.config)
        stacked = tensor.detach().cpu()
        tensors |= dict(zip(parts, stacked, strict=True)) if parts else {name: stacked}
    dtype = str(model.output_weight.dtype).removeprefix("torch.")
    config = model.config.to_hf() | {"dtype": dtype, "torch_dtype": dtype}
    if tokenizer is not None:
        stops = [tokenizer.im_end_id, tokenizer.eos_id]
        config |= {"bos_token_id": None, "eos_token_id": tokenizer.im_end_id, "pad_token_id": tokenizer.eos_id}
        _write_json(
            folder / "generation_config.json",
            {"do_sample": False, "eos_token_id": stops, "pad_token_id": tokenizer.eos_id},
        )
        tokenizer.save(folder)
    _write_json(folder / "config.json", config)
    if isinstance(model.sparse_prefill, SparsePrefill):
        model.sparse_prefill.write(folder)
    whole = {name: tensors[name].contiguous() for name in sorted(tensors)}
    save_file(whole, folder / WEIGHTS, metadata={"format": "pt"})


def load_config(folder: Path | str) -> ModelConfig:
    """``config.json`` of a model folder."""
    path = Path(folder) / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelFormatError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(values, dict):
        raise ModelFormatError(f"{path}: holds no JSON object")
    return ModelConfig.from_hf(values)


def load_model(
    folder: Path | str, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Transformer:
    """Read a model folder, every tensor checked for its name, shape and NaN."""
    folder = Path(folder)
    config = load_config(folder)
    with torch.device("meta"):
        model = Transformer(config)
    own = model.state_dict()
    stacks = {name: parts for name in own if (parts := _expert_names(name, config))}
    expected = {name: tensor.shape for name, tensor in own.items() if name not in stacks}
    expected |= {part: own[name].shape[1:] for name, parts in stacks.items() for part in parts}
    state: dict[str, Tensor] = {}
    for file, name, tensor in _read_tensors(folder):
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue  # some writers repeat the tied matrix
        if name not in expected:
            raise ModelFormatError(f"{file}: unexpected tensor {name}, which config.json does not call for")
        if tensor.shape != expected[name]:
            raise ModelFormatError(
                f"{file}: {name} has shape {tuple(tensor.shape)}, config.json says {tuple(expected[name])}"
            )
        if not torch.isfinite(tensor).all():
            raise ModelFormatError(f"{file}: {name} holds NaN or infinite values")
        state[name] = tensor.to(device=device, dtype=dtype)
    if missing := sorted(expected.keys() - state.keys()):
        raise ModelFormatError(f"{folder}: missing tensor {missing[0]} ({len(missing)} missing in all)")
    for name, parts in stacks.items():
        state[name] = torch.stack([state.pop(part) for part in parts])
    model.load_state_dict(state, assign=True)
    model.reset_rotation(device)
    model.sparse_prefill = SparsePrefill.read_from(folder, config)
    return model


def _expert_names(name: str, config: ModelConfig) -> list[str]:
    """Names in a checkpoint of the experts that the model keeps stacked in one parameter; empty for any other."""
    if config.moe is None or ".experts." not in name:
        return []
    layer, matrix = name.split(".experts.")
    return [f"{layer}.experts.{index}.{matrix}.weight" for index in range(config.moe.num_experts)]


def _read_tensors(folder: Path) -> Iterator[tuple[str, str, Tensor]]:
    """(file name, tensor name, tensor) of every tensor in the folder's weight files."""
    for path in _weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 (not a dict)
                    yield path.name, name, file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise ModelFormatError(f"{path}: not a whole safetensors file: {error}") from error


def _weight_files(folder: Path) -> list[Path]:
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    if not (folder / INDEX).exists():
        raise ModelFormatError(f"{folder}: neither {WEIGHTS} nor {INDEX} is there")
    try:
        names = set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError) as error:
        raise ModelFormatError(f"{folder / INDEX}: no weight_map of tensor names to files") from error
    for name in sorted(names):
        if not (folder / name).exists():
            raise ModelFormatError(f"{folder}: {name}, named in {INDEX}, is missing")
    return [folder / name for name in sorted(names)]


def _write_json(path: Path, values: dict) -> None:
    path.write_text(json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
