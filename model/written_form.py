"""As what a checkpoint is written: Qwen2 as a rule; a dense model whose tokenizer is not Qwen's as Llama.

``transformers`` (5.24) gives every folder of type ``qwen2`` Qwen's own way to cut text, whatever its tokenizer.json
says. A Llama computes the same: with biases on Q, K and V it has one on the attention output too, here zero.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from model.config import ModelConfig
from model.hf_config import config_to_hf
from model.tensor_files import Entry
from model.tokenizer import Tokenizer


@dataclass(frozen=True)
class WrittenForm:
    """What goes into a folder."""

    values: dict[str, Any]
    """Of ``config.json``."""
    entries: dict[str, Entry]
    """Tensors by name, in the order of the model."""
    zeros: frozenset[str]
    """Those of them that are zero and that the checkpoint does not have."""


def written_form(
    config: ModelConfig,
    tokenizer: Tokenizer | None,
    entries: Mapping[str, Entry],
    pieces: Callable[[str], Iterable[Tensor]],
) -> WrittenForm:
    """The form of a checkpoint with these tensors, in a Qwen2's names; ``pieces`` gives their values."""
    if config.moe or tokenizer is None or tokenizer.cuts_like_qwen:
        return WrittenForm(config_to_hf(config), dict(entries), frozenset())
    biased = any(piece.any() for name in entries if name.endswith("_proj.bias") for piece in pieces(name))
    kept: dict[str, Entry] = {}
    zeros = set[str]()
    for name, entry in entries.items():
        if biased or not name.endswith("_proj.bias"):
            kept[name] = entry
        if biased and name.endswith("o_proj.weight"):
            extra = name.removesuffix("weight") + "bias"
            kept[extra] = Entry((config.hidden_size,), entry.dtype)
            zeros.add(extra)
    values = config_to_hf(config) | {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": biased, "mlp_bias": False,
        "head_dim": config.head_dim,
    }  # fmt: skip
    del values["use_sliding_window"]
    return WrittenForm(values, kept, frozenset(zeros))
