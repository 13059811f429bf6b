"""Embeddings by the engine: means of last hidden states, whatever company, chunks and pages they are computed in."""

import pytest
import torch
from model_shapes import CONFIGS, make_model
from transformers import AutoModel

from model.checkpoint import save_model
from model.generation import Engine, Request

TEXTS = [[(7 * place + index) % 200 for place in range(length)] for index, length in enumerate((1, 16, 33, 100))]


def embed(engine: Engine, texts: list[list[int]], *beside: Request) -> list[torch.Tensor]:
    ids = [engine.add(Request(prompt=text, max_new_tokens=1, pooled=True)) for text in texts]
    for request in beside:
        engine.add(request)
    found = {}
    while engine.busy:
        for event in engine.step():
            if event.embedding is not None:
                assert event.token is None and event.finish == "stop"
                found[event.id] = torch.tensor(event.embedding)
    assert engine.pool.used == 0
    return [found[id] for id in ids]


@pytest.mark.parametrize("name", ["grouped, tied", "experts"])
def test_it_is_the_mean_that_transformers_computes(name, tmp_path):
    model = make_model(CONFIGS[name])
    save_model(tmp_path, model)
    peer = AutoModel.from_pretrained(tmp_path, dtype=torch.float32).eval()
    for text, found in zip(TEXTS, embed(Engine(model), TEXTS), strict=True):
        with torch.no_grad():
            expected = peer(torch.tensor([text])).last_hidden_state[0].mean(dim=0)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_what_was_read_before_and_what_is_written_beside_change_nothing():
    model = make_model(CONFIGS["grouped, tied"])
    expected = embed(Engine(model), TEXTS)
    engine = Engine(model, pages=24, chunk_tokens=32)  # too few pages for all at once, and chunks of prompts
    writers = [Request(prompt=text, max_new_tokens=30) for text in TEXTS]
    for _ in range(2):  # the second time their pages are known
        for one, other in zip(embed(engine, TEXTS, *writers), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert engine.statistics().answer_tokens == 2 * 4 * 30, "an embedding is no answer token"
