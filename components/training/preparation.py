"""What is applied to a model for training and taken off again: recomputation, compilation, the type of its weights."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from model.transformer import Layer


def prepared(module: nn.Module, *, recompute: bool, compiled: bool) -> Callable[[], None]:
    """Apply recomputation and torch.compile to every layer; returns what undoes both.

    Recomputation (arXiv 1604.06174) keeps a layer's input and runs the layer again in the backward pass. Compiling by
    layer instead of as a whole compiles one graph for all layers.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, Layer)]
    for layer in layers:
        if recompute:
            inner = layer.forward
            layer.forward = partial(checkpoint, inner, use_reentrant=False)  # type: ignore[method-assign]
        if compiled:
            layer.compile()

    def undo() -> None:
        for layer in layers:
            if recompute:
                del layer.forward
            layer._compiled_call_impl = None

    return undo


def cast_parameters(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Parameters to ``dtype`` in place. Buffers stay: rotation frequencies in bfloat16 would lose whole positions."""
    for parameter in module.parameters():
        parameter.data = parameter.data.to(dtype)
    return module


__all__ = ["cast_parameters", "prepared"]
