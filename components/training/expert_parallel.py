"""Expert parallelism (GShard, arXiv 2006.16668): processes share the experts of every layer, not its tokens.

Each of P neighbouring processes keeps E / P experts of an MoE layer, with their gradients and optimizer state. A token
is sent to where the experts that its router has chosen are, and what they make of it is sent back. Groups of P
processes hold the same experts and add up their gradients. DeepSpeed, whatever its ZeRO stage, sees the other
parameters only.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from components.stage import Layout, StageError
from components.training import communication
from components.training.config import TrainingConfig
from components.training.optimizer import adamw
from model.moe import MoE, run_experts

_exchange = communication.timed(dist.all_to_all_single)
_add_up = communication.timed(dist.all_reduce)
_gather = communication.timed(dist.all_gather)
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass
class _Group:
    """P neighbours, which lie on one host, and those that hold the same experts as this process."""

    size: int
    place: int
    """Of this process among the neighbours: it holds experts ``place * E / P`` and the following."""
    neighbours: Any = None
    replicas: Any = None
    """None where there is no other."""


class SharedExperts:
    """This process' experts of all MoE layers of a model: master weights, gradients and AdamW in float32.

    All processes call every method but ``clear``, in the same order.
    """

    def __init__(self, model: nn.Module, config: TrainingConfig, layout: Layout) -> None:
        self.config, self.world_size = config, layout.world_size
        self.group = _make_groups(layout)
        self.owned: dict[str, nn.Parameter] = {}
        for name, layer in list(model.named_modules()):
            if isinstance(layer, MoE):
                self._share(f"{name}.experts", layer)
        self.optimizer = adamw([{"params": list(self.owned.values()), "weight_decay": config.weight_decay}], config)
        self.clear()

    def norm(self, others: float) -> float:
        """Average the gradients; the norm of the whole gradient, of which that of the other parameters is given."""
        for parameter in self.owned.values():
            assert parameter.grad is not None
            if self.group.replicas is not None:
                _add_up(parameter.grad, group=self.group.replicas)
            parameter.grad /= self.world_size  # as DeepSpeed does with the others
        squares = torch.stack([p.grad.double().square().sum() for p in self.owned.values() if p.grad is not None])
        total = squares.sum()
        _add_up(total, group=self.group.neighbours)
        return float((total + others**2).sqrt())

    def step(self, learning_rate: float, norm: float) -> None:
        """Clip by the norm of the whole gradient and update."""
        gradients = [parameter.grad for parameter in self.owned.values() if parameter.grad is not None]
        torch._foreach_mul_(gradients, min(1.0, self.config.max_grad_norm / (norm + 1e-6)))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()

    def clear(self) -> None:
        """No gradient: zeros, for a process to which no token was sent takes part in adding up all the same."""
        for parameter in self.owned.values():
            parameter.grad = torch.zeros_like(parameter)

    @torch.no_grad()
    def whole(self, name: str, key: str = "weight") -> Tensor:
        """(E, ...) weight or moment of all experts."""
        parameter = self.owned[name]
        mine = parameter.detach() if key == "weight" else self.optimizer.state[parameter].get(key)
        mine = torch.zeros_like(parameter) if mine is None else mine
        parts = [torch.empty_like(mine) for _ in range(self.group.size)]
        _gather(parts, mine.contiguous(), group=self.group.neighbours)
        return torch.cat(parts)

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor], moments: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Take this process' part of whole tensors."""
        self.optimizer.state.clear()
        for name, parameter in self.owned.items():
            parameter.copy_(self._mine(weights[name]))
            if kept := moments.get(name):
                self.optimizer.state[parameter] = {
                    "step": torch.tensor(float(kept["step"]), device=parameter.device),  # where a fused step wants it
                    **{key: self._mine(kept[key]).to(parameter.device).clone() for key in MOMENTS},
                }

    def _share(self, name: str, layer: MoE) -> None:
        experts, size = layer.experts, self.group.size
        number = experts.gate_proj.shape[0]
        if number % size:
            raise StageError(f"--expert-parallel {size}: {number} experts cannot be shared evenly")
        mine = [nn.Parameter(self._mine(part).detach().float().clone()) for part in experts.parameters()]
        self.owned |= {f"{name}.{key}": part for (key, _), part in zip(experts.named_parameters(), mine, strict=True)}
        layer.experts = _Remote(mine, self.group)  # type: ignore[assignment]

    def _mine(self, whole: Tensor) -> Tensor:
        return whole.chunk(self.group.size)[self.group.place]


class _Remote(nn.Module):
    """Stands where ``Experts`` stood. What it holds is not registered with the module, so that DeepSpeed and casts to
    bfloat16 pass it by."""

    def __init__(self, owned: list[nn.Parameter], group: _Group) -> None:
        super().__init__()
        self._owned, self._group = tuple(owned), group

    def forward(self, x: Tensor, counts: list[int]) -> Tensor:
        """As ``Experts.forward``: the rows of this process' tokens, sorted by expert."""
        group = self._group
        sent = torch.tensor(counts, device=x.device).view(group.size, -1)  # (P, E / P) rows for expert e of process p
        arriving = torch.empty_like(sent)  # (P, E / P) rows from process p for expert e of this one
        _exchange(arriving, sent, group=group.neighbours)
        out, into = sent.sum(dim=1).tolist(), arriving.sum(dim=1).tolist()
        rows = _Send.apply(x, out, into, group.neighbours)
        local = arriving.shape[1]
        expert = torch.arange(local, device=x.device).repeat(group.size).repeat_interleave(arriving.flatten())
        order = expert.argsort(stable=True)
        made = rows[order]
        if len(order):
            weights = [part.to(x.dtype) for part in self._owned]
            made = run_experts(made, arriving.sum(dim=0).tolist(), *weights)
        return _Send.apply(torch.empty_like(made).index_copy(0, order, made), into, out, group.neighbours)


class _Send(torch.autograd.Function):
    """``out[p]`` rows to process p, ``into[p]`` rows from it; the gradient goes the same way back."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, out: list[int], into: list[int], group: Any) -> Tensor:
        ctx.given = out, into, group
        received = rows.new_empty((sum(into), rows.shape[1]))
        _exchange(received, rows.contiguous(), into, out, group=group)
        return received

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        out, into, group = ctx.given
        return _Send.apply(grad, into, out, group), None, None, None


def _make_groups(layout: Layout) -> _Group:
    """Every process takes part in making every group."""
    size, world = layout.expert_parallel, layout.world_size
    found = _Group(size, layout.rank % size)
    for first in range(0, world, size):
        made = dist.new_group(list(range(first, first + size)))
        found.neighbours = made if first <= layout.rank < first + size else found.neighbours
    for start in range(size) if world > size else ():
        made = dist.new_group(list(range(start, world, size)))
        found.replicas = made if start == found.place else found.replicas
    return found


__all__ = ["MOMENTS", "SharedExperts"]
