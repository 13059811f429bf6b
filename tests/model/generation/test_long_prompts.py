"""Long prompts in the engine: what the model's sparse prefill reads, in the engine's pages and chunks."""

import pytest
import torch
from model_shapes import make_config, make_model

from model import sparse_prefill
from model.config import DualChunkConfig
from model.generation import Engine, Request, generate, scheduler
from model.sparse_prefill import SparsePrefill
from model.vertical_slash import Budget

CHUNKS = DualChunkConfig(chunk_size=160, local_size=32)


@pytest.fixture(params=[None, CHUNKS], ids=["plain", "dual chunk"])
def model(request, monkeypatch):
    monkeypatch.setattr(sparse_prefill, "DENSE_SHARE", 10.0)  # nothing falls back on reading everything
    return make_model(make_config(8, 2, dual_chunk_attention=request.param, max_position_embeddings=1024))


def plan(model, budget: Budget | None, min_tokens: int = 200) -> SparsePrefill:
    budgets = ((budget,) * model.config.num_attention_heads,) * model.config.num_hidden_layers
    return SparsePrefill(budgets=budgets, min_tokens=min_tokens, sinks=4, local=8)


def prompt_of(length: int) -> list[int]:
    return torch.randint(200, (length,), generator=torch.Generator().manual_seed(length)).tolist()


@pytest.mark.parametrize("length", [200, 333, 700])
def test_the_first_token_is_that_of_the_sparse_model(model, length):
    model.sparse_prefill = plan(model, Budget(16, 8))
    with torch.no_grad():
        log_probs = model.logits(model(torch.tensor([prompt_of(length)]))[0, -1]).log_softmax(-1)
    [answer] = generate(model, [prompt_of(length)], max_new_tokens=1, log_probs_of=range(200))
    torch.testing.assert_close(torch.tensor(answer.asked[0]), log_probs, atol=2e-4, rtol=1e-3)
    model.sparse_prefill = None
    [dense] = generate(model, [prompt_of(length)], max_new_tokens=1, log_probs_of=range(200))
    assert (torch.tensor(dense.asked[0]) - log_probs).abs().max() > 0.01, "it did read sparsely"


def test_heads_without_budgets_and_short_prompts_are_read_densely(model):
    prompts = [prompt_of(length) for length in (30, 150, 260, 450)]
    dense = generate(model, prompts, max_new_tokens=8)
    model.sparse_prefill = plan(model, None)
    assert [a.tokens for a in generate(model, prompts, max_new_tokens=8)] == [a.tokens for a in dense]
    model.sparse_prefill = plan(model, Budget(1, 1), min_tokens=500)
    assert [a.tokens for a in generate(model, prompts, max_new_tokens=8)] == [a.tokens for a in dense]


def test_a_sparse_text_does_not_depend_on_its_company(model, monkeypatch):
    """Its chunks end where they end alone, though others use up the budget of a step."""
    monkeypatch.setattr(scheduler, "SPARSE_CHUNK", 128)
    model.sparse_prefill = plan(model, Budget(16, 8))
    [alone] = generate(model, [prompt_of(600)], max_new_tokens=6)
    engine = Engine(model, chunk_tokens=32)
    others = [engine.add(Request(prompt=prompt_of(length), max_new_tokens=30)) for length in (20, 90, 300)]
    engine.step()
    mine = engine.add(Request(prompt=prompt_of(600), max_new_tokens=6))
    tokens: dict[int, list[int | None]] = {id: [] for id in (*others, mine)}
    while engine.busy:
        for event in engine.step():
            tokens[event.id].append(event.token)
    assert tokens[mine] == alone.tokens
