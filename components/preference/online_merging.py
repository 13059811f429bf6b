"""The Online Merging Optimizer (Lu et al. 2024, arXiv 2405.17931), which Qwen2.5 uses for DPO.

After every Adam update ``delta`` the parameters move by a merge of it with the reference's task vector
``tau = theta_sft - theta_base``::

    theta <- theta + (1 - alpha) F(delta) (+) alpha F(tau)

so that what alignment gains costs less of what SFT had taught. ``F`` drops at random and ``(+)`` adds (OnDARE), or
``F`` keeps the largest and ``(+)`` adds where the signs agree (OnTIES).
"""

from collections.abc import Mapping
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

Method = Literal["dare", "ties"]


def drop_at_random(values: Tensor, keep: float, generator: torch.Generator, *, rescale: bool) -> Tensor:
    """Keep each entry with probability ``keep``; with ``rescale`` divide by it, so that the mean stays."""
    mask = torch.rand(values.shape, generator=generator).to(values.device) < keep
    return values * mask / (keep if rescale else 1.0)


def keep_largest(values: Tensor, keep: float) -> Tensor:
    """Zero all but the ``keep`` share (at least one entry) of largest magnitude."""
    count = max(1, round(keep * values.numel()))
    if count >= values.numel():
        return values
    kept = values.abs().flatten().topk(count).indices
    sparse = torch.zeros_like(values).flatten()
    sparse[kept] = values.flatten()[kept]
    return sparse.view_as(values)


def add_by_consensus(first: Tensor, second: Tensor) -> Tensor:
    """Sum of the entries whose sign is that of ``first + second``; a dissenting entry is left out."""
    sign = torch.sign(first + second)
    return first * (torch.sign(first) == sign) + second * (torch.sign(second) == sign)


def merge(
    delta: Tensor, tau: Tensor, *, alpha: float, keep: float, method: Method, rescale: bool,
    generator: torch.Generator,
) -> Tensor:  # fmt: skip
    """The step that replaces Adam's update ``delta`` of one parameter."""
    if method == "dare":
        first = drop_at_random(delta, keep, generator, rescale=rescale)
        second = drop_at_random(tau, keep, generator, rescale=rescale)
        return (1 - alpha) * first + alpha * second
    return add_by_consensus((1 - alpha) * keep_largest(delta, keep), alpha * keep_largest(tau, keep))


class Stepper(Protocol):
    """What is asked of the wrapped optimizer: any of torch, or a composite of them."""

    @property
    def param_groups(self) -> list[dict[str, Any]]: ...
    def step(self) -> Any: ...
    def zero_grad(self, set_to_none: bool = True) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


class OnlineMergingOptimizer:
    """Wraps an optimizer: lets it step, then replaces its step by the merged one.

    Parameters
    ----------
    optimizer : the wrapped optimizer; its groups, state and learning rate are used as they are.
    task_vectors : parameter -> tau of the same shape. A parameter without one takes plain steps.
    seed : the random mask of step ``n`` comes from (seed, n) alone, so a resumed run draws the same one.
    """

    def __init__(
        self, optimizer: Stepper, task_vectors: Mapping[nn.Parameter, Tensor], *, alpha: float, keep: float,
        method: Method = "dare", rescale: bool = True, seed: int = 0,
    ) -> None:  # fmt: skip
        self.optimizer, self.task_vectors = optimizer, dict(task_vectors)
        self.alpha, self.keep, self.method, self.rescale, self.seed = alpha, keep, method, rescale, seed
        self.updates = 0

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups

    @torch.no_grad()
    def step(self) -> None:
        before = {parameter: parameter.clone() for parameter in self.task_vectors if parameter.grad is not None}
        self.optimizer.step()
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.updates) % 2**63)
        for parameter, old in before.items():
            step = merge(
                parameter - old, self.task_vectors[parameter], alpha=self.alpha, keep=self.keep,
                method=self.method, rescale=self.rescale, generator=generator,
            )  # fmt: skip
            parameter.copy_(old + step)
        self.updates += 1

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.optimizer.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict(), "updates": self.updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self.updates = state_dict["updates"]
