"""Rotary position embeddings (arXiv 2104.09864): plain, with a raised base (ABF), and YaRN (arXiv 2309.00071)."""

import math

import torch
from torch import Tensor

from model import native_passes
from model.config import ModelConfig, RopeScaling


def inverse_frequencies(config: ModelConfig) -> Tensor:
    """Radians a position, one for each pair of dimensions: (head_dim / 2,) float32, fastest first."""
    dimensions = torch.arange(0, config.head_dim, 2, dtype=torch.float32)
    plain = 1.0 / config.rope_theta ** (dimensions / config.head_dim)
    if config.rope_scaling is None:
        return plain
    return _yarn_frequencies(plain, config.rope_theta, config.rope_scaling)


def attention_factor(config: ModelConfig) -> float:
    """Scale of cos and sin; its square multiplies the attention logits (YaRN's temperature)."""
    scaling = config.rope_scaling
    if scaling is None:
        return 1.0
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    return 0.1 * math.log(scaling.factor) + 1.0


def _yarn_frequencies(plain: Tensor, theta: float, scaling: RopeScaling) -> Tensor:
    """NTK-by-parts: dimensions that turn often within the trained length keep their frequency (they encode
    short distances), those that never complete ``beta_slow`` turns are interpolated, a ramp lies between."""
    head_dim = 2 * plain.numel()

    def dimension_of(turns: float) -> float:
        """The (fractional) pair index that makes ``turns`` rotations within the trained length."""
        wavelengths = scaling.original_max_position_embeddings / (turns * 2 * math.pi)
        return head_dim * math.log(wavelengths) / (2 * math.log(theta))

    low = max(math.floor(dimension_of(scaling.beta_fast)), 0)
    high = min(math.ceil(dimension_of(scaling.beta_slow)), head_dim - 1)
    width = max(high - low, 0.001)
    interpolated_share = ((torch.arange(head_dim // 2, dtype=torch.float32) - low) / width).clamp(0, 1)
    return plain * (1 - interpolated_share) + (plain / scaling.factor) * interpolated_share


def rotation(positions: Tensor, frequencies: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    """What ``rotate`` needs: positions (..., T) -> (cos, cos) and (-sin, sin), each (..., T, head_dim) float32."""
    angles = positions.to(torch.float32).unsqueeze(-1) * frequencies
    cos, sin = angles.cos() * factor, angles.sin() * factor
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (i, i + head_dim / 2) of ``x`` (B, T, heads, head_dim): (a cos - b sin, b cos + a sin), with cos
    and sin of ``rotation``, each (B or 1, T, 1, head_dim)."""
    if x.requires_grad and torch.is_grad_enabled() and all(map(native_passes.suits, (x, cos, sin))):
        return _NativeRotation.apply(x, cos, sin)
    return torch.addcmul(x.roll(x.shape[-1] // 2, dims=-1) * sin, x, cos)


class _NativeRotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return native_passes.rotate(x, cos, sin, 1.0)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        cos, sin = ctx.saved_tensors
        return native_passes.rotate(grad.contiguous(), cos, sin, -1.0), None, None
