"""Causal attention for training on a CPU in one compiled call a pass (``attention.cpp``), where a compiler is at hand.

Scores of a tile never leave the first caches and no probability is kept: for the backward pass they are made again
from the logarithm of each row's sum (arXiv 2307.08691). Bits do not depend on the number of threads. Shapes: B batch, N
query heads, K key-value heads, T tokens, D head size.
"""

import ctypes
import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.native_build import library

PANEL, TILE = 32, 64
"""As in ``attention.cpp``: what the head size is a multiple of, and the tokens of a tile."""


def can_attend(query: Tensor) -> bool:
    """Whether this is what ``attention.cpp`` is for, and it can be had. torch.compile cannot look into it."""
    fits = query.device.type == "cpu" and query.dtype == torch.float32 and query.shape[-1] % PANEL == 0
    return fits and not torch.compiler.is_compiling() and _functions() is not None


def native_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(query key^T / sqrt(D)) value, causal: (B, N, T, D), 2 x (B, K, T, D), and (B, 1, T, T) bool or None
    -> (B, N, T, D). A mask can hide more than the future, but must leave each query at least one key."""
    return _NativeAttention.apply(query, key, value, mask)


@functools.cache
def _functions() -> ctypes.CDLL | None:
    found = library(Path(__file__).with_name("attention.cpp"), "attention in training")
    if found is None:
        return None
    pointer, number = ctypes.c_void_p, ctypes.c_int
    found.attention.argtypes = (*(pointer,) * 5, number, *(pointer,) * 3)
    found.attention_backward.argtypes = (*(pointer,) * 8, number, *(pointer,) * 5)
    for function in (found.attention, found.attention_backward):
        function.restype = None
    return found


class _NativeAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        functions = _functions()
        assert functions is not None
        query, key, value = (_neighbours(x) for x in (query, key, value))
        mask = None if mask is None else mask.contiguous()
        output, log_sums, turned = _empty_like(query), query.new_empty(query.shape[:3]), _turned(key)
        functions.attention(
            _sizes(query, key), _heads(query), _heads(key), _heads(value), _pointer(mask), torch.get_num_threads(),
            _pointer(turned), _heads(output), _pointer(log_sums),
        )  # fmt: skip
        ctx.save_for_backward(query, key, value, mask, output, log_sums)
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        query, key, value, mask, output, log_sums = ctx.saved_tensors
        functions, grad = _functions(), _neighbours(grad)
        assert functions is not None
        grads = tuple(_empty_like(x) for x in (query, key, value))
        turned, parts = _turned(key, value), query.new_empty(2, *query.shape)
        functions.attention_backward(
            _sizes(query, key), _heads(query), _heads(key), _heads(value), _pointer(mask), _heads(output),
            _pointer(log_sums), _heads(grad), torch.get_num_threads(), _pointer(turned), _pointer(parts),
            *(_heads(x) for x in grads),
        )  # fmt: skip
        return *grads, None


class _Sizes(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_int64) for name in ("batch", "heads", "key_values", "tokens", "size"))


class _Heads(ctypes.Structure):
    _fields_ = (("at", ctypes.c_void_p), *((name, ctypes.c_int64) for name in ("text", "head", "token")))


def _sizes(query: Tensor, key: Tensor) -> Any:
    batch, heads, tokens, size = query.shape
    return ctypes.byref(_Sizes(batch, heads, key.shape[1], tokens, size))


def _heads(x: Tensor) -> Any:
    return ctypes.byref(_Heads(x.data_ptr(), *x.stride()[:3]))


def _neighbours(x: Tensor) -> Tensor:
    """With the numbers of a head beside one another."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _empty_like(x: Tensor) -> Tensor:
    """(B, heads, T, D), token by token: what comes before and after attention has it so."""
    batch, heads, tokens, size = x.shape
    return x.new_empty(batch, tokens, heads, size).transpose(1, 2)


def _turned(*parts: Tensor) -> Tensor:
    """Room for them in tiles."""
    batch, heads, tokens, size = parts[0].shape
    return parts[0].new_empty(len(parts), batch, heads, -(-tokens // TILE) * TILE, size)


def _pointer(x: Tensor | None) -> ctypes.c_void_p | None:
    return None if x is None else ctypes.c_void_p(x.data_ptr())
