"""A mixture of experts made from a dense model that says, at the start, what the dense model says.

As in the Qwen reports (Qwen2, arXiv 2407.10671, section 2.2.2), each layer's FFN is copied as often as the experts'
width needs, every copy's units are shuffled, experts are cut from the copies, and a share of their units starts anew.
On top of that nothing changes at the start, by the virtual groups of "Upcycling LLMs into MoE" (arXiv 2410.07524) and
a split of each unit's output over the two paths:

- k neighbouring experts share one router row and hold one copy together, so a token that picks one of them picks all k.
  Their gradients differ from the first step on, which parts their rows.
- Every copy inherits the same units, ``1 - fresh_share`` of them. The routed experts carry ``routed_share`` of what
  those write, the shared expert the rest, and all of the units that no copy inherits.
- A fresh unit reads at random and writes nothing yet; its output weights get a gradient from the first step on.
- The shared expert's gate starts at 0, half open.

The start is exact where the shared expert holds what the copies do not (its width is at least ``fresh_share`` of the
FFN's), k divides the number of experts, and their weights are normalised. Weights that are not (``norm_topk_prob``
false, as published) sum to a number that differs from token to token: its mean is set right, on random inputs.
"""

import torch
from torch import Tensor

from model.config import MoEConfig
from model.feed_forward import FeedForward
from model.moe import MoE
from model.transformer import Layer, Transformer

CALIBRATION_TOKENS = 4096
"""Random inputs that the mean weight of a chosen expert is measured on."""


@torch.no_grad()
def upcycle(
    dense: Transformer, moe: MoEConfig, *, seed: int, fresh_share: float = 0.5, routed_share: float = 0.5
) -> Transformer:
    """A Transformer with ``moe`` experts in every layer; the same for the same seed.

    Raises ValueError where ``dense`` is an MoE already or a share is outside [0, 1].
    """
    if dense.config.moe is not None:
        raise ValueError("the model to upcycle is an MoE already")
    if not (0 <= fresh_share <= 1 and 0 <= routed_share <= 1):
        raise ValueError(f"fresh_share {fresh_share} and routed_share {routed_share} must be between 0 and 1")
    config = dense.config.model_copy(update={"moe": moe})
    generator = torch.Generator().manual_seed(seed)
    # a drawn seed: the dense model may have started from this very one
    model = Transformer(config).init_weights(int(torch.randint(2**31, (), generator=generator)))
    state = dense.state_dict()
    model.load_state_dict({name: value for name, value in state.items() if ".mlp." not in name}, strict=False)
    for source, target in zip(dense.layers, model.layers, strict=True):
        _fill(source, target, moe, generator, fresh_share, routed_share)
    return model


def _fill(
    source: Layer, target: Layer, moe: MoEConfig, generator: torch.Generator, fresh_share: float, routed_share: float
) -> None:
    ffn, layer = source.mlp, target.mlp
    assert isinstance(ffn, FeedForward)
    assert isinstance(layer, MoE)
    width, chosen = ffn.gate_proj.weight.shape[0], moe.num_experts_per_tok
    slots = chosen * moe.moe_intermediate_size  # units of one copy
    order = torch.randperm(width, generator=generator)
    inherited = order[: min(round((1 - fresh_share) * width), slots)]
    others = order[inherited.numel() :]
    # the shared expert: first what no copy has, then as much of the rest as it holds
    shared_units = torch.cat((others, inherited))[: moe.shared_expert_intermediate_size]
    routed = torch.zeros(width)
    routed[inherited] = 1.0
    routed[shared_units[others.numel() :]] = routed_share
    _fill_shared(ffn, layer.shared_expert, shared_units.sort().values, 2 * (1 - routed))
    layer.shared_expert_gate.weight.zero_()
    copies = -(-moe.num_experts // chosen)
    layer.gate.weight.copy_(layer.gate.weight[:copies].repeat_interleave(chosen, dim=0)[: moe.num_experts])
    scale = routed / _mean_weight(layer, target.post_attention_layernorm.weight, generator)
    for copy in range(copies):
        experts = slice(copy * chosen, min((copy + 1) * chosen, moe.num_experts))
        _fill_copy(ffn, layer, experts, inherited, slots, scale, generator)


def _fill_shared(ffn: FeedForward, shared: FeedForward, units: Tensor, scale: Tensor) -> None:
    """Units of the FFN in the first places, ``scale`` (F,) on what they write; the places after them write nothing."""
    count = units.numel()
    shared.gate_proj.weight[:count] = ffn.gate_proj.weight[units]
    shared.up_proj.weight[:count] = ffn.up_proj.weight[units]
    shared.down_proj.weight.zero_()
    shared.down_proj.weight[:, :count] = ffn.down_proj.weight[:, units] * scale[units]


def _fill_copy(
    ffn: FeedForward, layer: MoE, experts: slice, inherited: Tensor, slots: int, scale: Tensor,
    generator: torch.Generator,
) -> None:  # fmt: skip
    """Shuffle one copy's units over the places of its experts; places without a unit keep their random input weights.

    A unit's scale is split between its up and down vectors: the output is a product of both, and neither grows large.
    """
    places = torch.randperm(slots, generator=generator)[: inherited.numel()]
    held = torch.full((slots,), -1)
    held[places] = inherited[torch.randperm(inherited.numel(), generator=generator)]
    units = held.view(-1, layer.experts.gate_proj.shape[1])[: experts.stop - experts.start]  # (experts, width)
    kept, units = units >= 0, units.clamp(min=0)
    root = scale[units].sqrt()
    gate, up, down = (getattr(layer.experts, name)[experts] for name in ("gate_proj", "up_proj", "down_proj"))
    gate.copy_(torch.where(kept[..., None], ffn.gate_proj.weight[units], gate))
    up.copy_(torch.where(kept[..., None], ffn.up_proj.weight[units] * root[..., None], up))
    written = ffn.down_proj.weight.t()[units] * (root * kept)[..., None]  # (experts, width, H)
    down.copy_(written.transpose(1, 2))


def _mean_weight(layer: MoE, norm: Tensor, generator: torch.Generator) -> float:
    """The weight that a chosen expert's output has on average."""
    if layer.normalise:
        return 1.0 / layer.chosen
    inputs = torch.randn(CALIBRATION_TOKENS, norm.numel(), generator=generator) * norm
    probabilities = layer.gate(inputs).softmax(dim=-1)
    return float(probabilities.topk(layer.chosen, dim=-1).values.mean())
