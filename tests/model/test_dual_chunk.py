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
from model.config import DualChunkConfig
from model.dual_chunk import key_positions, logit_scale, query_positions
from model.generation import generate
from model.transformer import Attention

CHUNKS = DualChunkConfig(chunk_size=20, local_size=6, original_max_position_embeddings=30)


def turned(vector: np.ndarray, position: int, theta: float) -> np.ndarray:
    half = len(vector) // 2
    angles = position / theta ** (np.arange(half) / half)
    first, second = vector[:half], vector[half:]
    return np.concatenate(
        [first * np.cos(angles) - second * np.sin(angles), second * np.cos(angles) + first * np.sin(angles)]
    )


def reference(attention: Attention, x: np.ndarray, config) -> np.ndarray:
    """One row (T, H), written as the paper states it: pair by pair, in float64."""
    chunking, size = config.dual_chunk_attention, config.head_dim
    period, tokens = chunking.chunk_size - chunking.local_size, len(x)
    weights = {name: value.detach().double().numpy() for name, value in attention.named_parameters()}
    queries, keys, values = (x @ weights[f"{n}_proj.weight"].T + weights[f"{n}_proj.bias"] for n in "qkv")
    output = np.zeros((tokens, config.num_attention_heads * size))
    for head in range(config.num_attention_heads):
        own = slice(head * size, (head + 1) * size)
        group = head * config.num_key_value_heads // config.num_attention_heads
        shared = slice(group * size, (group + 1) * size)
        for i in range(tokens):
            scores = []
            for j in range(i + 1):
                apart = i // period - j // period
                if apart == 0:
                    at = i % period
                elif apart == 1:
                    at = min(i % period + period, chunking.chunk_size)
                else:
                    at = min(2 * period - 1, chunking.chunk_size)
                query = turned(queries[i, own], at, config.rope_theta)
                scores.append(query @ turned(keys[j, shared], j % period, config.rope_theta) / math.sqrt(size))
            scale = 0.1 * math.log(max(1.0, (i + 1) / chunking.original_max_position_embeddings)) + 1
            shares = np.exp(np.array(scores) * scale - max(scores) * scale)
            output[i, own] = shares / shares.sum() @ values[: i + 1, shared]
    return output @ weights["o_proj.weight"].T


@pytest.fixture
def model():
    return make_model(make_config(4, 2, num_hidden_layers=1, dual_chunk_attention=CHUNKS)).double()


@pytest.fixture(params=[dual_chunk.SCORES_AT_ONCE, 1], ids=["at once", "query by query"])
def block_size(request, monkeypatch):
    monkeypatch.setattr(dual_chunk, "SCORES_AT_ONCE", request.param)


@pytest.mark.usefixtures("block_size")
def test_prefill_equals_the_reference(model):
    x = torch.randn(2, 67, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    step = model._step(torch.zeros(2, 67, dtype=torch.long), None, None, None)
    with torch.no_grad():
        ours = model.layers[0].self_attn(x, step).numpy()
    for row in range(2):
        # rotations are computed in float32
        np.testing.assert_allclose(
            ours[row], reference(model.layers[0].self_attn, x[row].numpy(), model.config), atol=2e-5
        )


def test_cached_decode_equals_the_reference_with_left_padding(model):
    lengths, x = [18, 7], torch.randn(2, 60, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    start = torch.tensor([max(lengths) - n for n in lengths])
    cache = KVCache(model.config, 2, 60, start=start, dtype=torch.float64)
    outputs = []
    with torch.no_grad():
        for part in [slice(0, 18), *(slice(i, i + 1) for i in range(18, 50)), slice(50, 60)]:
            ids = torch.zeros(2, part.stop - part.start, dtype=torch.long)
            outputs.append(model.layers[0].self_attn(x[:, part], model._step(ids, None, None, cache)))
            cache.advance(ids.shape[1])
    ours = torch.cat(outputs, dim=1).numpy()
    for row, begin in enumerate(start.tolist()):
        expected = reference(model.layers[0].self_attn, x[row, begin:].numpy(), model.config)
        np.testing.assert_allclose(ours[row, begin:], expected, atol=2e-5)


def test_within_a_chunk_it_is_plain_attention(model):
    plain = make_model(model.config.model_copy(update={"dual_chunk_attention": None})).double()
    ids = torch.randint(200, (2, CHUNKS.chunk_length), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert torch.equal(model(ids), plain(ids))
        longer = torch.cat([ids, ids], dim=1)
        assert (model(longer) - plain(longer)).abs().max() > 1e-3
        # the rule itself, not only the short cut that skips it
        torch.testing.assert_close(model(longer)[:, : ids.shape[1]], plain(ids), atol=1e-6, rtol=1e-6)


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
