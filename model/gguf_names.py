"""What GGUF files call the tensors and numbers of a model (architectures ``llama``, ``qwen2`` and ``qwen2moe``)."""

import re
from typing import NamedTuple

ARCHITECTURES = ("llama", "qwen2", "qwen2moe")

_WHOLE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_q.bias": "self_attn.q_proj.bias",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_k.bias": "self_attn.k_proj.bias",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_v.bias": "self_attn.v_proj.bias",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
    "ffn_gate_inp.weight": "mlp.gate.weight",
    "ffn_gate_inp_shexp.weight": "mlp.shared_expert_gate.weight",
    "ffn_gate_shexp.weight": "mlp.shared_expert.gate_proj.weight",
    "ffn_up_shexp.weight": "mlp.shared_expert.up_proj.weight",
    "ffn_down_shexp.weight": "mlp.shared_expert.down_proj.weight",
}
_EXPERTS = {
    "ffn_gate_exps.weight": "gate_proj.weight",
    "ffn_up_exps.weight": "up_proj.weight",
    "ffn_down_exps.weight": "down_proj.weight",
}
_TO_GGUF = {ours: theirs for theirs, ours in (_WHOLE | _LAYER | _EXPERTS).items()}


class GGUFName(NamedTuple):
    """Where one of our tensors is in a GGUF file."""

    name: str
    expert: int | None = None
    """Its place in a tensor that stacks all experts."""


def to_gguf(name: str) -> GGUFName:
    """``model.layers.3.mlp.experts.7.up_proj.weight`` -> ``blk.3.ffn_up_exps.weight``, 7."""
    if name in _TO_GGUF:
        return GGUFName(_TO_GGUF[name])
    matched = re.fullmatch(r"model\.layers\.(\d+)\.(?:mlp\.experts\.(\d+)\.)?(.+)", name)
    if matched is None or matched[3] not in _TO_GGUF:
        raise KeyError(name)
    layer, expert, rest = matched.groups()
    return GGUFName(f"blk.{layer}.{_TO_GGUF[rest]}", None if expert is None else int(expert))


def from_gguf(name: str, experts: int = 0) -> list[str]:
    """Our names for a GGUF tensor: one, or one for each of the ``experts`` that it stacks; [] for an unknown one."""
    if name in _WHOLE:
        return [_WHOLE[name]]
    matched = re.fullmatch(r"blk\.(\d+)\.(.+)", name)
    if matched is None:
        return []
    layer, rest = f"model.layers.{matched[1]}", matched[2]
    if rest in _EXPERTS:
        return [f"{layer}.mlp.experts.{expert}.{_EXPERTS[rest]}" for expert in range(experts)]
    return [f"{layer}.{_LAYER[rest]}"] if rest in _LAYER else []
