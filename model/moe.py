"""The mixture of experts of Turbo and Plus (Qwen2.5 report, section 2): fine-grained routed experts, each token to
its top k by a softmax router, and a shared expert that sees every token behind a sigmoid gate.

Losses that keep the router healthy: load balance (Switch Transformer, arXiv 2101.03961, equation 4) and router z-loss
(ST-MoE, arXiv 2202.08906, equation 5). Shapes: T tokens, H hidden_size, E experts, k chosen, I expert width.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.config import ModelConfig, MoEConfig
from model.feed_forward import FeedForward
from model.linear import gated_linear, linear


@dataclass
class Routing:
    """What one layer's router did in the last forward pass."""

    balance_loss: Tensor
    """E * sum_e(choices of e a token * mean probability of e): k at perfect balance, at most E."""
    z_loss: Tensor
    """mean(logsumexp(logits)^2): keeps the logits small."""
    load: Tensor
    """(E,) share of all choices that each expert got."""


class Experts(nn.Module):
    """E narrow SwiGLU networks, stacked. A checkpoint holds each of them apart (``experts.0.gate_proj.weight``)."""

    def __init__(self, config: ModelConfig, moe: MoEConfig) -> None:
        super().__init__()
        experts, width, hidden = moe.num_experts, moe.moe_intermediate_size, config.hidden_size
        self.gate_proj = nn.Parameter(torch.empty(experts, width, hidden))
        self.up_proj = nn.Parameter(torch.empty(experts, width, hidden))
        self.down_proj = nn.Parameter(torch.empty(experts, hidden, width))

    def forward(self, x: Tensor, counts: list[int]) -> Tensor:
        """``x`` (T * k, H) sorted by expert, ``counts[e]`` rows for expert e -> (T * k, H)."""
        return run_experts(x, counts, self.gate_proj, self.up_proj, self.down_proj)


def run_experts(x: Tensor, counts: list[int], gate_proj: Tensor, up_proj: Tensor, down_proj: Tensor) -> Tensor:
    """Rows (R, H) sorted by expert, ``counts[e]`` for expert e, and stacked weights -> (R, H), R > 0.

    One product an expert, none a token. On a CPU the framework's grouped product takes as long for training (73 and 74
    GFLOP/s of 78 with 16 experts, 39 and 39 with 64 narrow ones) and wants sizes in multiples of 16 bytes; a batched
    product over padded experts takes half as long again.
    """
    # unbind: one backward for all experts, where indexing would allocate E gradients of full size
    weights = zip(gate_proj.unbind(), up_proj.unbind(), down_proj.unbind(), strict=True)
    outputs = [
        gated_linear(linear(rows, gate), linear(rows, up), down)
        for rows, (gate, up, down) in zip(x.split(counts), weights, strict=True)
        if rows.shape[0]
    ]
    return torch.cat(outputs)


class MoE(nn.Module):
    """The feed-forward layer of an MoE model."""

    def __init__(self, config: ModelConfig, moe: MoEConfig) -> None:
        super().__init__()
        self.chosen, self.normalise = moe.num_experts_per_tok, moe.norm_topk_prob
        self.gate = nn.Linear(config.hidden_size, moe.num_experts, bias=False)
        self.experts = Experts(config, moe)
        self.shared_expert = FeedForward(config.hidden_size, moe.shared_expert_intermediate_size)
        self.shared_expert_gate = nn.Linear(config.hidden_size, 1, bias=False)
        self.routing: Routing | None = None

    def forward(self, x: Tensor, counted: Tensor | None = None) -> Tensor:
        """(B, T, H) -> (B, T, H). ``counted`` (B, T) bool: the tokens that router losses look at."""
        tokens = x.reshape(-1, x.shape[-1])
        logits = self.gate(tokens).float()
        probabilities = logits.softmax(dim=-1)
        weights, experts = probabilities.topk(self.chosen, dim=-1)  # (T, k)
        self.routing = _routing(logits, probabilities, experts, counted)
        if self.normalise:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        # one row for each (token, choice), those of an expert next to each other
        order = experts.flatten().argsort(stable=True)
        source = order // self.chosen
        counts = experts.flatten().bincount(minlength=logits.shape[-1]).tolist()
        outputs = self.experts(tokens[source], counts)
        outputs = outputs * weights.flatten()[order, None].to(outputs.dtype)
        routed = torch.zeros_like(tokens).index_add(0, source, outputs)
        shared = self.shared_expert_gate(tokens).sigmoid() * self.shared_expert(tokens)
        return (routed + shared).view(x.shape)


def _routing(logits: Tensor, probabilities: Tensor, experts: Tensor, counted: Tensor | None) -> Routing:
    if counted is not None:
        kept = counted.flatten()
        logits, probabilities, experts = logits[kept], probabilities[kept], experts[kept]
    number = logits.shape[-1]
    load = experts.flatten().bincount(minlength=number).to(logits.dtype)
    balance = number * (load / max(experts.shape[0], 1) * probabilities.mean(dim=0)).sum()
    return Routing(balance, logits.logsumexp(dim=-1).square().mean(), load / load.sum().clamp(min=1))


def auxiliary_loss(layers: list[Routing], moe: MoEConfig) -> Tensor:
    """Weighted router losses, mean over layers: each layer is balanced by itself."""
    balance = torch.stack([routing.balance_loss for routing in layers]).mean()
    z_loss = torch.stack([routing.z_loss for routing in layers]).mean()
    return moe.router_aux_loss_coef * balance + moe.router_z_loss_coef * z_loss


def router_statistics(layers: list[Routing]) -> dict[str, float]:
    """Health of the routers, over layers: the busiest expert's load relative to an even one, the share of experts
    that got nothing, the load's entropy relative to an even one, and both losses without their weights."""
    load = torch.stack([routing.load.detach() for routing in layers])  # (layers, E)
    experts = load.shape[1]
    entropy = -(load * load.clamp(min=1e-12).log()).sum(dim=1) / math.log(max(experts, 2))
    return {
        "router/busiest": float(load.max() * experts),
        "router/idle": float((load == 0).float().mean()),
        "router/entropy": float(entropy.mean()),
        "router/balance_loss": sum(float(routing.balance_loss.detach()) for routing in layers) / len(layers),
        "router/z_loss": sum(float(routing.z_loss.detach()) for routing in layers) / len(layers),
    }
