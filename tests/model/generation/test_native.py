"""The compiled decoder against torch's own operations, and what is left to them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from model_shapes import EXPERTS, make_config, make_model

from model.config import DualChunkConfig, RopeScaling
from model.generation import Engine, native
from model.generation.layout import Stretch
from model.generation.native import NativeNetwork, can_run
from model.generation.network import Network
from model.generation.pages import PAGE, PagePool
from model.transformer import Transformer

needs_compiler = pytest.mark.skipif(native.library() is None, reason="no g++ here")
YARN = RopeScaling(factor=4.0, original_max_position_embeddings=64)
CONFIGS = {
    "grouped, tied": make_config(8, 2, hidden_size=256, tie_word_embeddings=True),
    "multi-head, outputs that fill no panel": make_config(4, 4, hidden_size=128, vocab_size=203, intermediate_size=77),
    "seven to one, wide heads": make_config(7, 1, hidden_size=448, rope_theta=1_000_000.0),
    "sixteen to one, wider heads": make_config(16, 1, hidden_size=2048, intermediate_size=600),
    "yarn": make_config(4, 2, hidden_size=128, rope_scaling=YARN),
}


def run(network: NativeNetwork | Network, texts: list[list[int]], chunks: list[int]) -> torch.Tensor:
    """Read all texts side by side, each in steps of so many tokens -> logits of all tokens, text after text."""
    pool = PagePool(network.config, 60, torch.float32, torch.device("cpu"))
    pool.memory.fill_(torch.nan)  # of what is not written yet nothing may be read
    pool.memory[:, 0] = 0
    tables = [np.arange(1 + 20 * i, 21 + 20 * i, dtype=np.int64) for i in range(len(texts))]
    found: list[list[torch.Tensor]] = [[] for _ in texts]
    done = [0] * len(texts)
    with torch.inference_mode():
        while any(at < len(text) for at, text in zip(done, texts, strict=True)):
            steps = [
                (i, at, min(at + chunks[i], len(text)))
                for i, (at, text) in enumerate(zip(done, texts, strict=True))
                if at < len(text)
            ]
            batch = network.lay_out([Stretch(texts[i][at:end], at, tables[i]) for i, at, end in steps])
            logits = network.logits(network(batch, pool.memory, torch.arange(sum(end - at for _, at, end in steps))))
            for owner, row in zip(batch.owners, logits, strict=True):
                found[steps[owner][0]].append(row)
            for i, _, end in steps:
                done[i] = end
    return torch.stack([row for rows in found for row in rows])


def texts_of(lengths: list[int]) -> list[list[int]]:
    source = np.random.default_rng(0)
    return [source.integers(0, 200, length).tolist() for length in lengths]


def logits_of(model: Transformer, texts: list[list[int]]) -> torch.Tensor:
    with torch.inference_mode():
        return torch.cat([model.logits(model(torch.tensor([text])))[0] for text in texts])


@needs_compiler
@pytest.mark.parametrize("name", CONFIGS)
def test_it_equals_the_model(name):
    model = make_model(CONFIGS[name]).eval()
    assert can_run(model)
    texts = texts_of([150, 1, 65])
    ours = run(NativeNetwork(model), texts, [32, 1, 64])
    plain, exact = logits_of(model, texts), logits_of(model.double(), texts)
    # the wider a random model, the more it makes of a rounding: the measure is what torch itself is off by
    allowed = max(1e-5 * exact.abs().max(), 2.0 * (plain - exact).abs().max())
    assert (ours - exact).abs().max() <= allowed


@needs_compiler
@pytest.mark.parametrize("name", CONFIGS)
def test_bits_do_not_depend_on_chunks_company_or_threads(name):
    network = NativeNetwork(make_model(CONFIGS[name]))
    texts = texts_of([150, 1, 65])
    together = run(network, texts, [150, 1, 65])
    assert torch.equal(together, run(network, texts, [1, 1, 1]))
    assert torch.equal(together, run(network, texts, [17, 1, 63]))
    assert torch.equal(together, torch.cat([run(network, [text], [40]) for text in texts]))
    threads = torch.get_num_threads()
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            assert torch.equal(together, run(network, texts, [40, 1, 40]))
    finally:
        torch.set_num_threads(threads)


@needs_compiler
def test_large_scores_and_dead_units_stay_finite():
    """exp at both ends: scores of thousands, gates far below and far above zero."""
    model = make_model(CONFIGS["grouped, tied"])
    with torch.no_grad():
        for layer in model.layers:
            layer.self_attn.q_proj.weight.mul_(300)
            layer.mlp.gate_proj.weight.mul_(300)
    texts = texts_of([70])
    with torch.inference_mode():
        expected = model.logits(model(torch.tensor(texts)))[0]
    ours = run(NativeNetwork(model), texts, [70])
    torch.testing.assert_close(ours, expected, rtol=2e-3, atol=2e-3 * expected.abs().max().item())


@needs_compiler
def test_other_models_are_left_to_torch():
    assert isinstance(Engine(make_model(CONFIGS["grouped, tied"])).network, NativeNetwork)
    dual = DualChunkConfig(chunk_size=64, local_size=16, original_max_position_embeddings=64)
    others = [
        make_model(make_config(8, 2)),
        make_model(make_config(4, 2, hidden_size=128, moe=EXPERTS)),
        make_model(make_config(4, 2, hidden_size=128, dual_chunk_attention=dual)),
        make_model(CONFIGS["grouped, tied"]).to(torch.bfloat16),
    ]
    for model in others:
        assert not can_run(model)
        assert isinstance(Engine(model).network, Network)
    assert isinstance(Engine(make_model(CONFIGS["grouped, tied"]), pack=False).network, Network)


def test_without_its_library_torch_goes_on(monkeypatch):
    monkeypatch.setattr(native, "library", lambda: None)
    assert isinstance(Engine(make_model(CONFIGS["grouped, tied"])).network, Network)


def test_pages_have_the_size_that_the_source_has():
    source = Path(native.__file__).with_name("decoder.cpp").read_text()
    assert f"PAGE = {PAGE}," in source
