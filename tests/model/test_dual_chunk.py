"""Dual chunk attention against an independent float64 reference, and its promises on positions."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from model_shapes import make_config, make_model

from model import dual_chunk
from model.cache import KVCache
from model.config import DualChunkConfig, RopeScaling
from model.dual_chunk import key_positions, logit_scale, query_positions
from model.generation import generate
from model.transformer import Attention

CHUNKS = DualChunkConfig(chunk_size=20, local_size=6, original_max_position_embeddings=30)


YARN = RopeScaling(factor=4.0, original_max_position_embeddings=16, beta_fast=4.0, beta_slow=0.5)


def angular_speeds(config) -> np.ndarray:
    """Radians a position of each pair of dimensions: RoPE, or YaRN as its paper states it (section 3.4)."""
    half = config.head_dim // 2
    speeds = config.rope_theta ** -(np.arange(half) / half)
    if config.rope_scaling is None:
        return speeds
    scaling = config.rope_scaling

    def pair_that_turns(times: float) -> float:
        ratio = scaling.original_max_position_embeddings / (2 * math.pi * times)
        return config.head_dim * math.log(ratio) / (2 * math.log(config.rope_theta))

    low = max(math.floor(pair_that_turns(scaling.beta_fast)), 0)
    high = min(math.ceil(pair_that_turns(scaling.beta_slow)), config.head_dim - 1)
    slow = np.clip((np.arange(half) - low) / max(high - low, 0.001), 0, 1)
    return speeds * (1 - slow) + speeds / scaling.factor * slow


def turned(vector: np.ndarray, position: int, speeds: np.ndarray) -> np.ndarray:
    angles = position * speeds
    first, second = np.split(vector, 2)
    return np.concatenate(
        [first * np.cos(angles) - second * np.sin(angles), second * np.cos(angles) + first * np.sin(angles)]
    )


def relative_turns(i: int, j: int, chunking: DualChunkConfig | None) -> tuple[int, int]:
    """Positions that a query at i and a key at j are rotated by."""
    if chunking is None:
        return i, j
    period = chunking.chunk_size - chunking.local_size
    apart = i // period - j // period
    if apart == 0:
        return i % period, j % period
    if apart == 1:
        return min(i % period + period, chunking.chunk_size), j % period
    return min(2 * period - 1, chunking.chunk_size), j % period


def reference(attention: Attention, x: np.ndarray, config) -> np.ndarray:
    """One row (T, H), written as the papers state it: pair by pair, in float64."""
    chunking, size, tokens = config.dual_chunk_attention, config.head_dim, len(x)
    weights = {name: value.detach().double().numpy() for name, value in attention.named_parameters()}
    queries, keys, values = (x @ weights[f"{n}_proj.weight"].T + weights[f"{n}_proj.bias"] for n in "qkv")
    speeds, temperature = angular_speeds(config), 1.0
    if config.rope_scaling:
        temperature = (0.1 * math.log(config.rope_scaling.factor) + 1) ** 2
    output = np.zeros((tokens, config.num_attention_heads * size))
    for head in range(config.num_attention_heads):
        own = slice(head * size, (head + 1) * size)
        group = head * config.num_key_value_heads // config.num_attention_heads
        shared = slice(group * size, (group + 1) * size)
        for i in range(tokens):
            scores = []
            for j in range(i + 1):
                at_query, at_key = relative_turns(i, j, chunking)
                query, key = turned(queries[i, own], at_query, speeds), turned(keys[j, shared], at_key, speeds)
                scores.append(query @ key / math.sqrt(size))
            scale = temperature
            if chunking:
                scale *= 0.1 * math.log(max(1.0, (i + 1) / chunking.original_max_position_embeddings)) + 1
            shares = np.exp(np.array(scores) * scale - max(scores) * scale)
            output[i, own] = shares / shares.sum() @ values[: i + 1, shared]
    return output @ weights["o_proj.weight"].T


@pytest.fixture(
    params=[
        {"dual_chunk_attention": CHUNKS},
        {"rope_scaling": YARN},
        {"dual_chunk_attention": CHUNKS, "rope_scaling": YARN},
    ],
    ids=["dual chunk", "yarn", "both"],
)
def extended(request):
    return make_model(make_config(4, 2, num_hidden_layers=1, **request.param)).double()


@pytest.fixture
def model():
    return make_model(make_config(4, 2, num_hidden_layers=1, dual_chunk_attention=CHUNKS)).double()


@pytest.fixture(params=["runs", "masked", "masked, query by query"])
def way(request, monkeypatch):
    """Over the runs of each text, or, where positions are given, with a mask."""
    if request.param == "masked, query by query":
        monkeypatch.setattr(dual_chunk, "SCORES_AT_ONCE", 1)
    return request.param


def test_prefill_equals_the_reference(extended, way):
    x = torch.randn(2, 67, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    given = None if way == "runs" else torch.arange(67).expand(2, -1)
    step = extended._step(torch.zeros(2, 67, dtype=torch.long), given, None, None)
    assert (step.chunks is None) or (step.chunks.runs is None) == (way != "runs")
    with torch.no_grad():
        ours = extended.layers[0].self_attn(x, step).numpy()
    for row in range(2):
        expected = reference(extended.layers[0].self_attn, x[row].numpy(), extended.config)
        np.testing.assert_allclose(ours[row], expected, atol=1e-5)  # rotations are computed in float32


def test_chunked_prefill_and_cached_decode_equal_the_reference_with_left_padding(extended):
    lengths, x = [18, 7], torch.randn(2, 60, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    start = torch.tensor([max(lengths) - n for n in lengths])
    cache = KVCache(extended.config, 2, 60, start=start, dtype=torch.float64)
    outputs = []
    with torch.no_grad():
        for part in [slice(0, 18), *(slice(i, i + 1) for i in range(18, 38)), slice(38, 53), slice(53, 60)]:
            ids = torch.zeros(2, part.stop - part.start, dtype=torch.long)
            outputs.append(extended.layers[0].self_attn(x[:, part], extended._step(ids, None, None, cache)))
            cache.advance(ids.shape[1])
    ours = torch.cat(outputs, dim=1).numpy()
    for row, begin in enumerate(start.tolist()):
        expected = reference(extended.layers[0].self_attn, x[row, begin:].numpy(), extended.config)
        np.testing.assert_allclose(ours[row, begin:], expected, atol=1e-5)


def test_within_a_chunk_it_is_plain_attention_to_the_bit():
    chunks = DualChunkConfig(chunk_size=20, local_size=6)
    for dtype in (torch.float32, torch.float64):
        model = make_model(make_config(4, 2, dual_chunk_attention=chunks)).to(dtype)
        plain = make_model(make_config(4, 2)).to(dtype)
        ids = torch.randint(200, (2, chunks.chunk_length), generator=torch.Generator().manual_seed(2))
        longer = torch.cat([ids, ids], dim=1)
        with torch.no_grad():
            assert torch.equal(model(ids), plain(ids))
            # the rule itself, not only the short cut that skips it
            torch.testing.assert_close(model(longer)[:, : ids.shape[1]], plain(ids), atol=1e-5, rtol=1e-5)
            assert (model(longer) - plain(longer)).abs().max() > 1e-3
            caches = [KVCache(m.config, 2, ids.shape[1], dtype=dtype) for m in (model, plain)]
            for token in ids.split(1, dim=1):
                ours, theirs = (m(token, cache=c) for m, c in zip((model, plain), caches, strict=True))
                assert torch.equal(ours, theirs)


def test_gradients_over_runs_equal_those_with_a_mask(model):
    ids = torch.randint(200, (2, 55), generator=torch.Generator().manual_seed(5))
    model(ids).square().sum().backward()
    over_runs = {name: parameter.grad.clone() for name, parameter in model.model.named_parameters()}
    model.zero_grad()
    model(ids, position_ids=torch.arange(55).expand(2, -1)).square().sum().backward()
    for name, gradient in over_runs.items():
        torch.testing.assert_close(gradient, model.model.get_parameter(name).grad, atol=1e-5, rtol=1e-4)


def test_a_long_prefill_holds_no_logits_of_all_pairs():
    """8 MB of logits a head would be 64 MB here; the parts need their outputs only."""
    chunks = DualChunkConfig(chunk_size=300, local_size=44)
    queries = torch.randn(3, 8, 1448, 8).unbind()
    key, value = torch.randn(2, 2, 1448, 8)
    with torch.profiler.profile(profile_memory=True) as profile:
        dual_chunk.attend_run(queries, key, value, 0, chunks.chunk_length)
    assert max(event.self_cpu_memory_usage for event in profile.key_averages()) < 8 * 1448 * 1448 * 4 / 8


def test_packed_documents_equal_each_alone(model):
    ids = torch.randint(200, (1, 55), generator=torch.Generator().manual_seed(3))
    numbers = torch.tensor([[0] * 40 + [1] * 15])
    with torch.no_grad():
        packed = model(ids, document_ids=numbers)
        torch.testing.assert_close(packed[:, :40], model(ids[:, :40]), atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(packed[:, 40:], model(ids[:, 40:]), atol=1e-6, rtol=1e-6)


def test_generation_equals_teacher_forcing():
    model = make_model(make_config(4, 2, dual_chunk_attention=CHUNKS))
    prompt = list(range(25))
    answer = generate(model, [prompt, [7]], max_new_tokens=30)[0].tokens
    with torch.no_grad():
        logits = model.logits(model(torch.tensor([prompt + answer])))
    assert logits[0, 24:-1].argmax(dim=-1).tolist() == answer


chunkings = st.integers(1, 64).flatmap(
    lambda size: st.builds(DualChunkConfig, chunk_size=st.just(size), local_size=st.integers(0, size - 1))
)


@given(chunkings, st.integers(0, 2000), st.data())
def test_no_relative_position_exceeds_the_chunk_size(config, query, data):
    key = data.draw(st.integers(0, query))
    apart = min(query // config.chunk_length - key // config.chunk_length, 2)
    at_query = int(query_positions(torch.tensor(query), config)[apart])
    relative = at_query - int(key_positions(torch.tensor(key), config))
    assert 0 <= relative <= config.chunk_size
    if query - key <= config.local_size:
        assert relative == query - key or apart == 2  # chunks shorter than the local window skip one


@given(st.integers(1, 10**6))
def test_logits_sharpen_with_the_logarithm_of_the_overrun(seen):
    scale = float(logit_scale(torch.tensor([seen - 1]), CHUNKS))
    assert scale == pytest.approx(0.1 * math.log(max(seen / 30, 1)) + 1, rel=1e-5)
