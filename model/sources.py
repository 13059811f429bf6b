"""Where a model's weights come from, under one set of names and shapes, whatever the file calls them.

A source tells what it holds before anything is read. ``check_source`` compares that with the config, so a wrong
checkpoint fails here, by the name of its tensor, and never later as strange text.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from model.config import ModelConfig, ModelFormatError
from model.hf_config import config_from_hf, has_biases, read_json_object
from model.tensor_files import Entry, TensorFiles
from model.tokenizer import Tokenizer
from model.transformer import Transformer


class Source(Protocol):
    """A checkpoint in some format."""

    @property
    def config(self) -> ModelConfig: ...
    @property
    def origin(self) -> str:
        """What it is called in messages."""
        ...

    @property
    def entries(self) -> Mapping[str, Entry]:
        """Shapes and types under the names of published Qwen2 checkpoints."""
        ...

    def pieces(self, name: str) -> Iterator[Tensor]:
        """Rows of one tensor in order, some at a time."""
        ...

    def tokenizer(self) -> Tokenizer | None:
        """None where the source comes without one."""
        ...


class FolderSource:
    """A folder in Hugging Face layout: ``Qwen2ForCausalLM``, ``Qwen2MoeForCausalLM`` or a Qwen2-like Llama."""

    def __init__(self, folder: Path) -> None:
        """Raises ModelFormatError for a config or files that cannot be read, or that this model cannot reproduce."""
        self.folder, self.origin = folder, str(folder)
        values = read_config(folder)
        self.config = config_from_hf(values, str(folder / "config.json"))
        if "quantization_config" in values:
            method = dict(values["quantization_config"] or {}).get("quant_method", "an unknown method")
            raise ModelFormatError(f"{folder}: quantised by {method}; convert the checkpoint that it was made from")
        self._files = TensorFiles(folder)
        self._zeros: dict[str, Entry] = {}
        found = dict(self._files.entries)
        for name in [name for name in found if name.endswith("rotary_emb.inv_freq")]:
            del found[name]  # older Llama checkpoints hold what the config says already
        if self.config.tie_word_embeddings and "lm_head.weight" in found:
            self._check_tied()
            del found["lm_head.weight"]
        if values["model_type"] == "llama":
            for name in [name for name in found if name.endswith("o_proj.bias")]:
                if self._files.read(name).any():
                    raise ModelFormatError(
                        f"{folder}: {name} is not zero; a bias on the attention output has no place here"
                    )
                del found[name]
        if not has_biases(values):
            self._zeros = missing_biases(self.config, found)
        self.entries = found | self._zeros

    def pieces(self, name: str) -> Iterator[Tensor]:
        zeros = self._zeros.get(name)
        return iter([torch.zeros(zeros.shape, dtype=zeros.dtype)]) if zeros else self._files.pieces(name)

    def tokenizer(self) -> Tokenizer | None:
        names = ("tokenizer.json", "vocab.json", "tokenizer.model", "tokenizer_config.json")
        return Tokenizer.load(self.folder) if any((self.folder / name).exists() for name in names) else None

    def _check_tied(self) -> None:
        """Some writers repeat the tied matrix; another one in its place contradicts the config."""
        pairs = zip(self._files.pieces("lm_head.weight"), self.pieces("model.embed_tokens.weight"), strict=False)
        if self._files.entries["lm_head.weight"].shape != self._shape("model.embed_tokens.weight") or not all(
            torch.equal(head, embedding) for head, embedding in pairs
        ):
            raise ModelFormatError(
                f"{self.folder}: lm_head.weight is not model.embed_tokens.weight, "
                "although config.json says tie_word_embeddings"
            )

    def _shape(self, name: str) -> tuple[int, ...]:
        entry = self._files.entries.get(name)
        return entry.shape if entry else ()


def read_config(folder: Path) -> dict[str, Any]:
    """The values of ``config.json``; ModelFormatError where it is no JSON object."""
    return read_json_object(folder / "config.json")


def layout(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a checkpoint's tensors, in the order of the model."""
    with torch.device("meta"):
        own = Transformer(config).state_dict()
    shapes: dict[str, tuple[int, ...]] = {}
    for name, tensor in own.items():
        parts = expert_names(name, config)
        shapes |= dict.fromkeys(parts, tuple(tensor.shape[1:])) if parts else {name: tuple(tensor.shape)}
    return shapes


def expert_names(name: str, config: ModelConfig) -> list[str]:
    """Names in a checkpoint of the experts that the model keeps stacked in one parameter; empty for any other."""
    if config.moe is None or ".experts." not in name:
        return []
    layer, matrix = name.split(".experts.")
    return [f"{layer}.experts.{index}.{matrix}.weight" for index in range(config.moe.num_experts)]


def check_source(source: Source) -> dict[str, Entry]:
    """The entries in the order of the model. Raises ModelFormatError for the first tensor that is unexpected,
    missing, misshapen or not made of floating-point numbers."""
    expected, found = layout(source.config), source.entries
    for name, entry in found.items():
        place = f"{source.origin}: {entry.file}" if entry.file else source.origin
        if name not in expected:
            raise ModelFormatError(
                f"{place}: unexpected tensor {name}, which the config does not call for{_hint(name)}"
            )
        if entry.shape != expected[name]:
            raise ModelFormatError(f"{place}: {name} has shape {entry.shape}, the config says {expected[name]}")
        if not entry.dtype.is_floating_point:
            raise ModelFormatError(f"{place}: {name} is of type {entry.dtype}, expected floating-point numbers")
    if missing := [name for name in expected if name not in found]:
        raise ModelFormatError(
            f"{source.origin}: missing tensor {missing[0]} ({len(missing)} missing in all){_hint(missing[0])}"
        )
    return {name: found[name] for name in expected}


def finite_pieces(source: Source, name: str) -> Iterator[Tensor]:
    """``source.pieces``, each looked through for NaN and infinity."""
    for piece in source.pieces(name):
        if not torch.isfinite(piece).all():
            raise ModelFormatError(f"{source.origin}: {name} holds NaN or infinite values")
        yield piece


def _hint(name: str) -> str:
    return "; see tie_word_embeddings" if name == "lm_head.weight" else ""


def missing_biases(config: ModelConfig, found: Mapping[str, Entry]) -> dict[str, Entry]:
    """Zero biases, in the types of their matrices, for a checkpoint that has none at all."""
    names = [(name, shape) for name, shape in layout(config).items() if name.endswith("_proj.bias")]
    if any(name in found for name, _ in names):
        return {}
    matrices = {name: found.get(name.removesuffix("bias") + "weight") for name, _ in names}
    return {name: Entry(shape, matrix.dtype) for name, shape in names if (matrix := matrices[name])}
