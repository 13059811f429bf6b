"""Matrix products of the decoder, by the fastest routine of the device."""

import re
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model import native_passes

# From this many rows on oneDNN beats the framework's default routine in float32 on a CPU, by a tenth on average.
MANY_ROWS = 64
_one_dnn = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None
# Gradients of weights with fewer elements take the default: reordering costs what the faster routine saves.
MANY_ELEMENTS = 2**16
# oneDNN reads weights of more elements slowly where they are transposed, down to 0.7 of MKL's speed.
LARGE_WEIGHT = 2**22
# Rows of a tall matrix (a vocabulary's) that are multiplied at once: 8,192 x 896 are 29 MB, which caches hold.
SLICE_ROWS = 8192


def _mkl_holds_back() -> bool:
    """MKL, the default for float32, leaves half the vector units of AMD's fifth Zen generation unused; oneDNN does not.

    The generations before it have no more units than MKL uses, and there MKL is faster at gradients of weights.
    """
    if not torch.backends.mkl.is_available():
        return False
    try:
        told = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    family = re.search(r"^cpu family\s*:\s*(\d+)", told, re.MULTILINE)
    return "AuthenticAMD" in told and family is not None and int(family[1]) >= 26


_mkl_is_held_back = _one_dnn is not None and _mkl_holds_back()


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weight^T + bias: (..., I), (O, I), (O,) -> (..., O). Records no gradient: see ``linear``."""
    if _one_dnn is None or not _suits(x):
        return F.linear(x, weight, bias)
    return _one_dnn(x, weight, bias, "none", [], "")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``product`` with gradients for all three."""
    if _one_dnn is None or not _suits(x):
        return F.linear(x, weight, bias)
    if not torch.is_grad_enabled():
        return product(x, weight, bias)
    return _Linear.apply(x, weight, bias)


def gated_linear(gate: Tensor, up: Tensor, weight: Tensor) -> Tensor:
    """(silu(gate) * up) weight^T with gradients for all three: 2 x (..., I), (O, I) -> (..., O).

    For the backward pass ``gate`` and ``up`` alone are kept; what they make is computed again, to the same bits. That
    is half the memory of SwiGLU, the largest activations of a layer, for two passes over them.
    """
    if _one_dnn is None or not _suits(gate) or not torch.is_grad_enabled():
        return linear(F.silu(gate) * up, weight)
    return _GatedLinear.apply(gate, up, weight)


def tall_product(x: Tensor, weight: Tensor) -> Tensor:
    """``product`` with a weight of many rows (a vocabulary), slice by slice: (R, I), (O, I) -> (R, O)."""
    rows = weight.shape[0]
    if _one_dnn is None or not _suits(x) or rows <= SLICE_ROWS:
        return product(x, weight)
    output = x.new_empty(x.shape[0], rows)
    for start in range(0, rows, SLICE_ROWS):
        part = slice(start, start + SLICE_ROWS)
        output[:, part] = product(x, weight[part])
    return output


def product_back(grad: Tensor, weight: Tensor) -> Tensor:
    """grad weight, the gradient of a product's x: (..., O), (O, I) -> (..., I)."""
    if _mkl_is_held_back or weight.numel() < LARGE_WEIGHT or not _suits(grad):
        return product(grad, weight.t())
    return grad @ weight


def outer(left: Tensor, right: Tensor) -> Tensor:
    """left^T right: (R, O), (R, I) -> (O, I), the gradient of a weight."""
    if _mkl_is_held_back and _suits(left) and left.shape[1] * right.shape[1] >= MANY_ELEMENTS:
        return product(left.t(), right.t())
    return left.t() @ right


def add_outer(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left^T right, in place: (O, I), (R, O), (R, I)."""
    if not (_mkl_is_held_back and _suits(left) and total.numel() >= MANY_ELEMENTS * 16):
        total.addmm_(left.t(), right)
        return
    columns = right.t().contiguous()
    for start in range(0, total.shape[0], SLICE_ROWS):
        part = slice(start, start + SLICE_ROWS)
        total[part] += product(left[:, part].t().contiguous(), columns)


def _suits(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32 and x.numel() >= MANY_ROWS * x.shape[-1]


class Linear(nn.Linear):
    """torch's, with ``linear`` under it."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, weight = ctx.saved_tensors
        want_x, want_weight, want_bias = ctx.needs_input_grad
        rows = grad.reshape(-1, grad.shape[-1])
        return (
            product_back(grad, weight) if want_x else None,
            outer(rows, x.reshape(-1, x.shape[-1])) if want_weight else None,
            rows.sum(dim=0) if want_bias else None,
        )


class _GatedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gate: Tensor, up: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up, weight)
        return product(_gated(gate, up), weight)

    @staticmethod
    def backward(ctx, grad: Tensor):
        gate, up, weight = ctx.saved_tensors
        grad_weight = None
        if ctx.needs_input_grad[2]:
            inner = _gated(gate, up)
            grad_weight = outer(grad.reshape(-1, grad.shape[-1]), inner.reshape(-1, inner.shape[-1]))
            del inner
        grad_inner = product_back(grad, weight)
        if native_passes.suits(gate) and native_passes.suits(up) and grad_inner.is_contiguous():
            return *native_passes.gate_backward(gate, up, grad_inner), grad_weight
        grad_up = F.silu(gate).mul_(grad_inner)
        return torch.ops.aten.silu_backward(grad_inner.mul_(up), gate), grad_up, grad_weight


def _gated(gate: Tensor, up: Tensor) -> Tensor:
    if native_passes.suits(gate) and native_passes.suits(up):
        return native_passes.gate(gate, up)
    return F.silu(gate).mul_(up)
