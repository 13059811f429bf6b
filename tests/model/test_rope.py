"""Plain, raised-base and YaRN rotations against ``transformers`` and the formula."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from model_shapes import make_config, make_model

from model.config import RopeScaling
from model.rope import attention_factor, inverse_frequencies, rotate, rotation


def yarn(factor: float, trained: int, **changes):
    scaling = RopeScaling(factor=factor, original_max_position_embeddings=trained, **changes)
    return make_config(4, 2, hidden_size=256, rope_theta=1_000_000.0, rope_scaling=scaling)


@pytest.mark.parametrize(
    "config",
    [make_config(rope_theta=10_000.0), make_config(rope_theta=1e7), yarn(4.0, 32768), yarn(2.0, 64), yarn(16.0, 4096)],
    ids=["plain", "raised base", "128K", "short", "wide"],
)
def test_frequencies_and_logits_equal_transformers(config, twin):
    model = make_model(config)
    theirs = twin(model)
    rope = theirs.model.rotary_emb
    torch.testing.assert_close(inverse_frequencies(config), rope.inv_freq, rtol=1e-5, atol=1e-9)
    assert attention_factor(config) == pytest.approx(rope.attention_scaling)
    ids = torch.randint(200, (1, 150), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs(ids).logits
        torch.testing.assert_close(
            model.logits(model(ids)), expected, atol=3e-5 * expected.abs().max().item(), rtol=1e-4
        )


def test_yarn_keeps_fast_dimensions_and_interpolates_slow_ones():
    config = yarn(4.0, 32768)
    plain = inverse_frequencies(config.model_copy(update={"rope_scaling": None}))
    ratio = inverse_frequencies(config) / plain
    turns = 32768 * plain / (2 * math.pi)  # within the trained length
    torch.testing.assert_close(ratio[turns > 48], torch.ones_like(ratio[turns > 48]))
    torch.testing.assert_close(ratio[turns < 0.6], torch.full_like(ratio[turns < 0.6], 0.25))
    assert (ratio.diff() <= 1e-6).all()
    assert attention_factor(config) == pytest.approx(0.1 * math.log(4) + 1)


@given(st.integers(0, 100_000), st.integers(0, 100_000), st.integers(0, 100_000))
def test_products_depend_on_distance_alone(first, second, shift):
    frequencies = inverse_frequencies(make_config()).double()
    query, key = torch.randn(2, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def product(at_query: int, at_key: int) -> float:
        def turned(vector, at):
            angles = at * frequencies  # in float64: float32 loses the phase far out
            cos, sin = angles.cos(), angles.sin()
            return rotate(vector, torch.cat((cos, cos)), torch.cat((-sin, sin)))

        return float(turned(query, at_query) @ turned(key, at_key))

    assert product(first, second) == pytest.approx(product(first + shift, second + shift), abs=1e-8)


def test_rotation_keeps_length_and_starts_at_zero():
    cos, sin = rotation(torch.arange(50), inverse_frequencies(make_config()), 1.0)
    x = torch.randn(50, 8)
    turned = rotate(x, cos, sin)
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    torch.testing.assert_close(turned[0], x[0])
