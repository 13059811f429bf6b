"""RMSNorm, SwiGLU and rotations for training on a CPU, compiled (``passes.cpp``) where a compiler is at hand.

Each is one pass over memory, which is all that they cost; the framework's operations make five. Tensors are float32
and contiguous: see ``suits``.
"""

import ctypes
import functools
from pathlib import Path

import torch
from torch import Tensor

from model.native_build import library

ROWS_OF_A_PART = 64
"""As in ``passes.cpp``: rows whose gradients of a norm's weight are added up at a time."""


@functools.cache
def functions() -> ctypes.CDLL | None:
    """What ``passes.cpp`` has; None where it cannot be compiled."""
    found = library(Path(__file__).with_name("passes.cpp"), "training")
    if found is None:
        return None
    pointer, size, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    found.normalise.argtypes = (pointer, pointer, size, size, ctypes.c_float, number, pointer, pointer)
    found.normalise_backward.argtypes = (*(pointer,) * 4, size, size, number, pointer, pointer)
    found.rotate.argtypes = (*(pointer,) * 3, *(size,) * 4, ctypes.c_float, number, pointer)
    found.gate.argtypes = (pointer, pointer, size, number, pointer)
    found.gate_backward.argtypes = (pointer, pointer, size, number, pointer, pointer)
    for function in (found.normalise, found.normalise_backward, found.rotate, found.gate, found.gate_backward):
        function.restype = None
    return found


def suits(x: Tensor) -> bool:
    """Whether ``x`` is what these functions read, and they can be had. torch.compile makes passes of its own."""
    plain = x.device.type == "cpu" and x.dtype == torch.float32 and x.is_contiguous()
    return plain and not torch.compiler.is_compiling() and functions() is not None


def normalise(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(x / rms(x) * weight, 1 / rms(x)): (..., H), (H,) -> (..., H), (...)."""
    y, inverse = torch.empty_like(x), x.new_empty(x.shape[:-1])
    _have().normalise(
        x.data_ptr(), weight.data_ptr(), inverse.numel(), x.shape[-1], eps, torch.get_num_threads(), y.data_ptr(),
        inverse.data_ptr(),
    )  # fmt: skip
    return y, inverse


def normalise_backward(x: Tensor, inverse: Tensor, weight: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x (..., H) and weight (H,)."""
    grad, grad_x, rows = grad.contiguous(), torch.empty_like(x), inverse.numel()
    parts = x.new_empty(-(-rows // ROWS_OF_A_PART), x.shape[-1])
    _have().normalise_backward(
        x.data_ptr(), inverse.data_ptr(), weight.data_ptr(), grad.data_ptr(), rows, x.shape[-1],
        torch.get_num_threads(), grad_x.data_ptr(), parts.data_ptr(),
    )  # fmt: skip
    return grad_x, parts.sum(dim=0)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, sign: float) -> Tensor:
    """x (B, T, heads, D) turned by cos and sin, each (B or 1, T, 1, D); back for a sign of -1."""
    y, (*_, heads, size) = torch.empty_like(x), x.shape
    _have().rotate(
        x.data_ptr(), cos.data_ptr(), sin.data_ptr(), x.numel() // (heads * size), cos.numel() // size, heads, size,
        sign, torch.get_num_threads(), y.data_ptr(),
    )  # fmt: skip
    return y


def gate(gates: Tensor, up: Tensor) -> Tensor:
    """silu(gates) * up."""
    y = torch.empty_like(gates)
    _have().gate(gates.data_ptr(), up.data_ptr(), gates.numel(), torch.get_num_threads(), y.data_ptr())
    return y


def gate_backward(gates: Tensor, up: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of gates, in the place of ``grad``, and of up."""
    grad_up = torch.empty_like(up)
    _have().gate_backward(
        gates.data_ptr(), up.data_ptr(), gates.numel(), torch.get_num_threads(), grad.data_ptr(), grad_up.data_ptr()
    )
    return grad, grad_up


def _have() -> ctypes.CDLL:
    found = functions()
    assert found is not None
    return found
