"""Weight-only quantisation to 8 or 4 bits with torchao: the numbers, and the layers that compute with them.

int8 has one scale a row, symmetric; int4 has a scale and an offset for each group of 32 weights, w = q scale + zero
with q from -8 to 7. Shapes: N rows, K columns of a matrix, G = K / 32 groups.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import ModelFormatError

Bits = Literal["int8", "int4"]
GROUP = 32
"""Weights that share a scale: 5 bits a weight in all. Wider groups cost a small model more than they save."""


def quantise(matrix: Tensor, bits: Bits) -> Tensor:
    """(N, K) as torchao's tensor of that kind."""
    need_torchao()
    from torchao.quantization import Int4Tensor, Int8Tensor, PerRow

    if bits == "int8":
        return Int8Tensor.from_hp(matrix, PerRow())
    grouped = matrix.float().unflatten(1, (-1, GROUP))  # (N, G, GROUP)
    least, most = grouped.amin(-1, keepdim=True), grouped.amax(-1, keepdim=True)
    # Scale and zero are rounded first, so that the weights are rounded to what will be computed.
    scale = ((most - least) / 15).clamp(min=1e-6).to(torch.bfloat16)
    zero = (least + 8 * scale.float()).to(torch.bfloat16)
    q = ((grouped - zero.float()) / scale.float()).round().clamp(-8, 7).to(torch.int8).flatten(1)
    return Int4Tensor(
        (q[:, 1::2] << 4) | (q[:, ::2] & 0xF),
        scale.squeeze(-1).t().contiguous(),
        zero.squeeze(-1).t().contiguous(),
        [1, GROUP],
        matrix.shape,
    )


class QuantizedLinear(nn.Module):
    """y = x W^T + b with a quantised W. ``weight`` is W in full, made when it is asked for."""

    def __init__(self, stored: Tensor, dtype: torch.dtype) -> None:
        """``stored``: torchao's ``Int8Tensor`` or ``Int4Tensor``; ``dtype`` of ``weight``. A bias may be set later."""
        super().__init__()
        self.stored = nn.Parameter(stored, requires_grad=False)
        self.bias: nn.Parameter | None = None
        self.dtype = dtype
        self._packed: tuple[Tensor, Tensor] | None = None

    @property
    def weight(self) -> Tensor:
        """(N, K)"""
        stored: Any = self.stored
        if not _is_int4(stored):
            return stored.dequantize(torch.float32).to(self.dtype)
        scale, zero = (part.t().float()[..., None] for part in (stored.scale, stored.zero_point))  # (N, G, 1)
        values = _unpacked(stored.qdata).unflatten(1, (-1, GROUP)).float()
        return torch.addcmul(zero, values, scale).flatten(1).to(self.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) -> (..., N)."""
        if not _is_int4(self.stored):
            return F.linear(x, self.stored, self.bias)
        if x.device.type != "cpu" or self.stored.shape[0] % 16:
            return F.linear(x, self.weight.to(x.dtype), self.bias)
        if self._packed is None:
            self._packed = _packed_for_cpu(self.stored)
        # The kernel reads bfloat16 alone; everything around it keeps its precision.
        rows = x.reshape(-1, x.shape[-1]).to(torch.bfloat16)
        y = torch.ops.aten._weight_int4pack_mm_for_cpu(rows, self._packed[0], GROUP, self._packed[1])
        y = y.to(x.dtype).view(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias


class SplitExperts(nn.ModuleList):
    """What ``model.moe.Experts`` computes, each expert a network of its own that can be quantised."""

    def forward(self, x: Tensor, counts: list[int]) -> Tensor:
        """``x`` (T * k, H) sorted by expert, ``counts[e]`` rows for expert e -> (T * k, H)."""
        parts = zip(self, x.split(counts), strict=True)
        return torch.cat([expert(rows) for expert, rows in parts if rows.shape[0]])

    def _stack(self, name: str) -> Tensor:
        return torch.stack([getattr(expert, name).weight for expert in self])

    gate_proj = property(lambda self: self._stack("gate_proj"))
    up_proj = property(lambda self: self._stack("up_proj"))
    down_proj = property(lambda self: self._stack("down_proj"))


def _is_int4(stored: Tensor) -> bool:
    return type(stored).__name__ == "Int4Tensor"


def _unpacked(qdata: Tensor) -> Tensor:
    """(N, K / 2) bytes, even columns in their lower halves -> (N, K) int8 from -8 to 7."""
    low = (qdata << 4) >> 4  # the shift back brings the sign along
    return torch.stack((low, qdata >> 4), dim=-1).flatten(1)


def _packed_for_cpu(stored: Any) -> tuple[Tensor, Tensor]:
    """Weights and (G, N, 2) scales and zeros as torch's CPU kernel wants them."""
    values = _unpacked(stored.qdata).int() + 8
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(values, 1)
    return packed, torch.stack((stored.scale, stored.zero_point), dim=-1).contiguous()


@contextmanager
def without_remarks() -> Iterator[None]:
    """While torchao is imported, by us or by transformers: it speaks of kernels for devices that are not there."""
    loggers = [logging.getLogger(name) for name in ("torchao", "torch.utils._pytree")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@cache
def need_torchao() -> None:
    """Import torchao, an optional dependency."""
    try:
        with without_remarks():
            import_module("torchao.prototype.safetensors.safetensors_support")
    except ImportError:
        raise ModelFormatError("quantised checkpoints need torchao: pip install 'qwenforge[quantize]'") from None
