"""SwiGLU, the feed-forward network of a dense layer and of a shared expert (arXiv 2002.05202)."""

import torch.nn.functional as F
from torch import Tensor, nn

from model.linear import Linear, gated_linear


class FeedForward(nn.Module):
    """down(silu(gate(x)) * up(x)), without biases."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_proj = Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = GatedLinear(intermediate_size, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_proj(x), self.up_proj(x)
        if isinstance(self.down_proj, GatedLinear):
            return self.down_proj(gate, up)
        return self.down_proj(F.silu(gate) * up)  # a quantised one


class GatedLinear(Linear):
    """A linear layer on silu(gate) * up. It takes both, so that it need not keep what they make."""

    def forward(self, gate: Tensor, up: Tensor) -> Tensor:  # type: ignore[override]
        return gated_linear(gate, up, self.weight)
