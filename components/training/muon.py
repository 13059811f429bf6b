"""Muon (Jordan et al. 2024; at scale: Liu et al. 2025, arXiv 2502.16982): steps along the orthogonalised momentum.

The framework's own orthogonalises in bfloat16, which most CPUs can only imitate: on one with AVX2 alone that was most
of a pocket step. Here it is done in float32 on a CPU, and in bfloat16 where there are units for it.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic iteration: the steepest slope at zero, which brings singular values to between 0.7 and 1.2."""
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """For matrices. The update is scaled to the root mean square of AdamW's, 0.2 (arXiv 2502.16982, equation 4), so
    that AdamW's learning rate and decoupled decay serve; Nesterov momentum."""

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float, momentum: float = 0.95
    ) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state, momentum = self.state[parameter], group["momentum"]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(parameter.grad)
                held = state["momentum_buffer"].lerp_(parameter.grad, 1 - momentum)
                update = orthogonalised(parameter.grad.lerp(held, momentum))
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                scale = 0.2 * math.sqrt(max(parameter.shape))
                parameter.add_(update.to(parameter.dtype), alpha=-group["lr"] * scale)


def orthogonalised(x: Tensor) -> Tensor:
    """A matrix with the singular vectors of ``x`` (A, B) and singular values near 1, by Newton-Schulz iterations."""
    a, b, c = COEFFICIENTS
    wide = x.shape[0] <= x.shape[1]
    found = (x if wide else x.t()).to(torch.float32 if x.device.type == "cpu" else torch.bfloat16)
    found = found / found.norm().clamp(min=1e-7)  # the largest singular value is then 1 at most
    for _ in range(ITERATIONS):
        gram = found @ found.t()
        found = torch.addmm(found, torch.addmm(gram, gram, gram, beta=b, alpha=c), found, beta=a)
    return found if wide else found.t()


__all__ = ["Muon", "orthogonalised"]
