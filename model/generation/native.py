"""The dense decoder on a CPU in one compiled call a step (``decoder.cpp``), where a compiler is at hand.

A decode step of a small model is hundreds of operations of a few microseconds; one call for all of them takes a third
of the time. Weights are packed once, keys lie in pages the way that attention reads them. Every number has the same
bits alone and in any company, chunk or order, and with any number of threads.

Shapes: T tokens of all texts, H hidden_size, D head_dim, V vocabulary rows.
"""

import ctypes
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model.config import ModelConfig
from model.feed_forward import FeedForward
from model.generation.layout import Stretch
from model.native_build import library as compiled
from model.rope import attention_factor, rotation
from model.transformer import Layer, Transformer

_PANEL = 32
"""Outputs of a product that are computed together; head_dim is a multiple of it."""
_TABLE_BLOCK = 2048


@functools.cache
def library() -> ctypes.CDLL | None:
    """The functions of ``decoder.cpp``; None where they cannot be had."""
    found = compiled(Path(__file__).with_name("decoder.cpp"), "generation")
    if found is None:
        return None
    pointer, size, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    found.forward.argtypes = (pointer,) * 6 + (size, number, pointer)
    found.normalise.argtypes = (pointer, size, size, ctypes.c_float, pointer)
    found.multiply.argtypes = (pointer, size, size, pointer, size, number, pointer)
    for function in (found.forward, found.normalise, found.multiply):
        function.restype = None
    return found


def can_run(model: Transformer) -> bool:
    """Whether this model's weights, shape and reading of long prompts are what ``decoder.cpp`` is for, and it can be
    compiled here."""
    config, weight = model.config, model.output_weight
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and config.moe is None
        and config.dual_chunk_attention is None
        and model.sparse_prefill is None
        and config.head_dim % _PANEL == 0
        and library() is not None
    )


@dataclass(frozen=True)
class Texts:
    """The tokens of one forward pass, text after text, and where their pages are."""

    arrays: tuple[np.ndarray, ...]
    """Held for as long as ``header`` points into them."""
    header: "_Texts"
    end: int
    """Positions are below it."""
    last: list[int]
    """The row of each stretch's last token."""
    lengths: list[int]

    @property
    def owners(self) -> list[int]:
        """(T,) which stretch each row is of."""
        return [owner for owner, length in enumerate(self.lengths) for _ in range(length)]


class NativeNetwork:
    """A packed copy of the weights of a ``Transformer`` as of now; called as ``network.Network`` is."""

    sparse_from: int | None = None

    def __init__(self, model: Transformer) -> None:
        self.config: ModelConfig = model.config
        self.embedding = model.model.embed_tokens.weight.detach().contiguous()
        self.dtype, self.device = self.embedding.dtype, self.embedding.device
        self._norm = model.model.norm.weight.detach()
        self._output = _panels(model.output_weight.detach() * self._norm)
        self._packed = [_packed(layer) for layer in model.layers]  # holds what the pointers point to
        self._layers = (_LayerPointers * len(self._packed))(
            *(_LayerPointers(*map(_pointer, each)) for each in self._packed)
        )
        config = self.config
        self._shape = _Shape(
            config.num_hidden_layers, config.hidden_size, config.num_attention_heads, config.num_key_value_heads,
            config.head_dim, config.intermediate_size, config.rms_norm_eps,
        )  # fmt: skip
        self._frequencies = model.frequencies
        self._turns = torch.empty(0, config.head_dim)
        found = library()
        assert found is not None
        self._library = found

    def lay_out(self, stretches: Sequence[Stretch]) -> Texts:
        ids = np.concatenate([np.asarray(tokens, np.int64) for tokens, _, _ in stretches])
        lengths = [len(tokens) for tokens, _, _ in stretches]
        starts = np.array([start for _, start, _ in stretches], np.int64)
        tables = np.array([table.ctypes.data for _, _, table in stretches], np.uintp)
        counts = np.array(lengths, np.int64)
        header = _Texts(len(stretches), len(ids), *(each.ctypes.data for each in (ids, starts, counts, tables)))
        held = (ids, starts, counts, tables, *(table for _, _, table in stretches))
        last = [end - 1 for end in accumulate(lengths)]
        return Texts(held, header, int((starts + counts).max()), last, lengths)

    def __call__(self, batch: Texts, memory: Tensor, wanted: Tensor) -> Tensor:
        """Hidden states after the final norm, but for its weights, of the tokens ``wanted`` (R,) -> (R, H); keys and
        values of all tokens go into ``memory`` (layers, pages, PAGE, 2 K, D)."""
        x = torch.empty(batch.header.tokens, self.config.hidden_size)
        self._library.forward(
            ctypes.byref(self._shape), self._layers, ctypes.byref(batch.header), _pointer(self.embedding),
            _pointer(self._rotations(batch.end)), _pointer(memory), memory.stride(0), torch.get_num_threads(),
            _pointer(x),
        )  # fmt: skip
        x = x[wanted]
        self._library.normalise(_pointer(x), *x.shape, self.config.rms_norm_eps, _pointer(x))
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """(R, H) -> (R, V) float32."""
        hidden, rows = hidden.contiguous(), self.config.vocab_size
        found = torch.empty(hidden.shape[0], rows)
        self._library.multiply(
            _pointer(hidden), *hidden.shape, _pointer(self._output), rows, torch.get_num_threads(), _pointer(found)
        )
        return found

    def whole(self, hidden: Tensor) -> Tensor:
        """(..., H) as the model has them: times the norm's weights, which stand in the output matrix instead."""
        return hidden * self._norm

    def _rotations(self, end: int) -> Tensor:
        """(end or more, D): cosines and sines of each position."""
        while end > len(self._turns):
            block = torch.arange(len(self._turns), len(self._turns) + _TABLE_BLOCK)
            cos, sin = rotation(block, self._frequencies, attention_factor(self.config))
            half = self.config.head_dim // 2
            self._turns = torch.cat((self._turns, torch.cat((cos[:, :half], sin[:, half:]), dim=-1)))
        return self._turns


class _Shape(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("layers", "hidden", "heads", "key_values", "size", "intermediate")),
        ("eps", ctypes.c_float),
    )


class _LayerPointers(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_void_p) for name in ("query_key_value", "bias", "output", "gate", "up", "down"))


class _Texts(ctypes.Structure):
    _fields_ = (
        ("count", ctypes.c_int64),
        ("tokens", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("ids", "starts", "lengths", "tables")),
    )


def _packed(layer: Layer) -> tuple[Tensor, ...]:
    """A layer's matrices in panels, in the order of ``_LayerPointers``. What reads a norm takes over its weights."""
    attention, mlp = layer.self_attn, layer.mlp
    assert isinstance(mlp, FeedForward)
    before, between = layer.input_layernorm.weight.detach(), layer.post_attention_layernorm.weight.detach()
    parts = (attention.q_proj, attention.k_proj, attention.v_proj)
    return (
        _panels(torch.cat([part.weight.detach() for part in parts]) * before),
        torch.cat([part.bias.detach() for part in parts]),
        _panels(attention.o_proj.weight.detach()),
        _panels(mlp.gate_proj.weight.detach() * between),
        _panels(mlp.up_proj.weight.detach() * between),
        _panels(mlp.down_proj.weight.detach()),
    )


def _panels(weight: Tensor) -> Tensor:
    """(outputs, inputs) -> (ceil(outputs / PANEL), inputs, PANEL), the last one filled up with zeros."""
    filled = torch.nn.functional.pad(weight, (0, 0, 0, -weight.shape[0] % _PANEL))
    return filled.unflatten(0, (-1, _PANEL)).transpose(1, 2).contiguous()


def _pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())
