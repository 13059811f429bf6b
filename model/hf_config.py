"""``config.json`` both ways. What this model cannot reproduce exactly is refused by key, never read past.

Three kinds are read: ``qwen2``, ``qwen2_moe``, and ``llama`` where it differs from a Qwen2 by zero biases on Q, K and V
alone. Two are written. (This module needs no torch.)
"""

import json
from pathlib import Path
from typing import Any

from model.config import DualChunkConfig, ModelConfig, ModelFormatError, MoEConfig, RopeScaling

KINDS = ("qwen2", "qwen2_moe", "llama")
_REQUIRED = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads",
)  # fmt: skip
_SHARED = (
    *_REQUIRED, "max_position_embeddings", "rope_theta", "rms_norm_eps", "tie_word_embeddings", "initializer_range",
)  # fmt: skip
_FIXED = {
    "hidden_act": "silu", "mlp_bias": False, "use_sliding_window": False, "partial_rotary_factor": 1.0,
    "decoder_sparse_step": 1, "mlp_only_layers": [],
}  # fmt: skip
"""Keys with one supported value each. A key that is absent or null has it."""


def read_json_object(path: Path) -> dict[str, Any]:
    """The values of a JSON file of a checkpoint; ModelFormatError where it holds no object."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelFormatError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(values, dict):
        raise ModelFormatError(f"{path}: holds no JSON object")
    return values


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """The content of ``config.json`` for ``Qwen2ForCausalLM`` or ``Qwen2MoeForCausalLM``."""
    values: dict[str, Any] = {
        "architectures": ["Qwen2MoeForCausalLM" if config.moe else "Qwen2ForCausalLM"],
        "model_type": "qwen2_moe" if config.moe else "qwen2",
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "use_cache": True,
        **{name: getattr(config, name) for name in _SHARED},
    }
    if config.rope_scaling:
        scaling = config.rope_scaling.model_dump(exclude_none=True)
        values["rope_scaling"] = {"rope_type": "yarn", **scaling}
    if config.dual_chunk_attention:
        values["dual_chunk_attention_config"] = config.dual_chunk_attention.model_dump()
    if config.moe:
        values |= config.moe.model_dump()
        values |= {"decoder_sparse_step": 1, "mlp_only_layers": []}
    return values


def config_from_hf(values: dict[str, Any], origin: str = "config.json") -> ModelConfig:
    """Read ``config.json`` content. Raises ModelFormatError, in the name of ``origin``, for what is missing,
    contradicts itself or has no counterpart here."""
    try:
        return _read(values)
    except ModelFormatError as error:
        raise ModelFormatError(f"{origin}: {error}") from None
    except ValueError as error:  # pydantic's: one line a problem would hide the first
        raise ModelFormatError(f"{origin}: {_first_problem(error)}") from None


def has_biases(values: dict[str, Any]) -> bool:
    """Whether tensors of ``config.json`` hold biases of Q, K and V; without them they are zero here."""
    kind = values.get("model_type")
    if kind == "llama":
        return bool(values.get("attention_bias", False))
    return bool(values.get("qkv_bias", True)) if kind == "qwen2_moe" else True


def _read(values: dict[str, Any]) -> ModelConfig:
    kind = values.get("model_type")
    if kind not in KINDS:
        raise ModelFormatError(f"model_type is {kind!r}, expected one of {', '.join(KINDS)}")
    for name, only in _FIXED.items():
        if (found := values.get(name)) not in (None, only):
            raise ModelFormatError(f"{name} is {found!r}; only {only!r} is supported")
    if "sliding_attention" in (values.get("layer_types") or ()):
        raise ModelFormatError("layer_types names sliding_attention; sliding windows are not supported")
    fields = {name: values[name] for name in _SHARED if values.get(name) is not None}
    if kind == "llama":
        # What ``transformers`` takes where a Llama config says nothing.
        fields = {"max_position_embeddings": 2048, "num_key_value_heads": values.get("num_attention_heads")} | fields
    for name in _REQUIRED:
        if fields.get(name) is None:
            raise ModelFormatError(f"{name} is missing")
    head_dim = values.get("head_dim")
    if head_dim and head_dim * fields["num_attention_heads"] != fields["hidden_size"]:
        raise ModelFormatError(
            f"head_dim {head_dim} x num_attention_heads {fields['num_attention_heads']} is not hidden_size "
            f"{fields['hidden_size']}; heads of another width are not supported"
        )
    fields |= _rope(values)
    if chunks := values.get("dual_chunk_attention_config"):
        fields["dual_chunk_attention"] = {name: chunks[name] for name in DualChunkConfig.model_fields if name in chunks}
    if kind == "qwen2_moe":
        fields["moe"] = {name: values[name] for name in MoEConfig.model_fields if name in values}
    return ModelConfig.model_validate(fields)


_YARN_ONLY_AS = {"truncate": True, "mscale": None, "mscale_all_dim": None}
"""Keys of YaRN in ``transformers`` that other families set, with the value that this model computes."""


def _rope(values: dict[str, Any]) -> dict[str, Any]:
    """``rope_theta`` and ``rope_scaling`` from either spelling: top-level keys or ``rope_parameters``."""
    parameters = dict(values.get("rope_parameters") or {}) | dict(values.get("rope_scaling") or {})
    fields: dict[str, Any] = {}
    theta = parameters.pop("rope_theta", None)
    if theta is not None:
        fields["rope_theta"] = theta
    kind = parameters.pop("rope_type", None) or parameters.pop("type", None) or "default"
    parameters.pop("type", None)
    if (share := parameters.pop("partial_rotary_factor", None)) not in (None, 1.0):
        raise ModelFormatError(f"partial_rotary_factor is {share!r}; only 1.0 is supported")
    if kind == "default":
        return fields
    if kind != "yarn":
        raise ModelFormatError(f"rope type {kind!r} is not 'default' or 'yarn'")
    for name, only in _YARN_ONLY_AS.items():
        if parameters.get(name) not in (None, only):
            raise ModelFormatError(f"rope_scaling.{name} is {parameters[name]!r}, which this model does not compute")
    known = {name: parameters[name] for name in RopeScaling.model_fields if parameters.get(name) is not None}
    known.setdefault("original_max_position_embeddings", values.get("max_position_embeddings"))
    return fields | {"rope_scaling": known}


def _first_problem(error: ValueError) -> str:
    """Key and message of the first thing that pydantic found."""
    problems: list[Any] = getattr(error, "errors", list)()
    if not problems:
        return str(error)
    place = ".".join(map(str, problems[0]["loc"]))
    message = problems[0]["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message
