"""Sparse prefill in the model: what it keeps, how far its output strays, the search, the file in a checkpoint."""

import json

import pytest
import torch
from model_shapes import make_config, make_model

from model import prefill_search, sparse_prefill
from model.cache import KVCache
from model.checkpoint import load_model, save_model
from model.config import DualChunkConfig, ModelFormatError
from model.initialisation import seed_previous_token_heads
from model.prefill_search import _Choice, _front, _raise_heads, measure, search
from model.sparse_prefill import FILE, SparsePrefill
from model.vertical_slash import Budget

CHUNKS = DualChunkConfig(chunk_size=160, local_size=32)
CANDIDATES = [Budget(verticals, slashes) for verticals in (4, 40) for slashes in (4, 16, 64)]


def plan(model, budget: Budget | None, **settings) -> SparsePrefill:
    config = model.config
    budgets = ((budget,) * config.num_attention_heads,) * config.num_hidden_layers
    return SparsePrefill(budgets=budgets, **({"min_tokens": 1, "sinks": 4, "local": 8} | settings))


def sharpened(**changes):
    """Heads that look a few tokens back, most of the time: slashes that the estimate finds."""
    model = make_model(make_config(8, 2, num_hidden_layers=2, initializer_range=0.02, **changes))
    with torch.no_grad():
        for layer in model.layers:
            layer.self_attn.k_proj.bias.zero_()
    seed_previous_token_heads(model)
    model.layers[1].load_state_dict(model.layers[0].state_dict())
    model.layers[1].self_attn.layer = 1
    with torch.no_grad():
        for layer in model.layers:
            layer.self_attn.q_proj.bias.mul_(1.2)
            layer.self_attn.k_proj.bias.mul_(1.2)
    return model


@pytest.fixture(params=[None, CHUNKS], ids=["plain", "dual chunk"])
def model(request):
    return sharpened(dual_chunk_attention=request.param)


@pytest.fixture
def ids():
    return torch.randint(200, (700,), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def always_sparse(monkeypatch):
    """However much is read, nothing falls back on reading everything."""
    monkeypatch.setattr(sparse_prefill, "DENSE_SHARE", 10.0)


@torch.no_grad()
def hidden(model, ids, budgets: SparsePrefill | None, **arguments) -> torch.Tensor:
    model.sparse_prefill = budgets
    return model(ids.view(-1, ids.shape[-1]), **arguments)


def error(ours: torch.Tensor, dense: torch.Tensor) -> float:
    return float((ours - dense).norm() / dense.norm())


def test_a_head_without_a_budget_is_dense_to_the_bit(model, ids):
    dense = hidden(model, ids, None)
    again = hidden(model, ids, plan(model, None))
    if model.config.dual_chunk_attention:
        assert torch.equal(again, dense)
    else:  # one head at a time through the same kernel
        torch.testing.assert_close(again, dense, atol=1e-5, rtol=1e-4)


@pytest.mark.usefixtures("always_sparse")
def test_a_full_budget_equals_dense_attention(model, ids):
    full = hidden(model, ids, plan(model, Budget(700, 700)))
    torch.testing.assert_close(full, hidden(model, ids, None), atol=1e-5, rtol=1e-4)


@pytest.mark.usefixtures("always_sparse")
def test_the_error_is_small_where_the_mass_is_kept_and_falls_with_it(model, ids):
    dense, before = hidden(model, ids, None), (0.0, 1.0)
    for budget in (Budget(0, 1), Budget(8, 12), Budget(100, 120), Budget(400, 400)):
        budgets = plan(model, budget, sinks=1, local=1)
        strayed = error(hidden(model, ids, budgets), dense)
        recall, _ = measure(model, ids)
        assert float(recall.mean()) > before[0]
        assert strayed < before[1]
        assert strayed < 2 * (1 - float(recall.mean())) + 1e-6
        before = float(recall.mean()), strayed
    assert before[0] > 0.95
    assert before[1] < 0.05


@pytest.mark.usefixtures("always_sparse")
def test_recall_is_the_mass_kept_of_dense_attention(model, ids):
    """Against weights that a full budget's log-sum-exp gives: exp(kept - all), the report's definition."""
    from model.dual_chunk import NO_CHUNKS, attend_run
    from model.vertical_slash import attend_selected, select

    queries = torch.randn(3, 1, 256, 8, generator=torch.Generator().manual_seed(1)).unbind()
    key, value = torch.randn(2, 256, 8, generator=torch.Generator().manual_seed(2))
    selection = select(torch.rand(256), torch.rand(256), Budget(10, 5), sinks=2, local=3)
    _, kept = attend_selected(tuple(query[0] for query in queries), key, value, 0, NO_CHUNKS, selection)
    _, all_ = attend_run(queries, key[None], value[None], 0, NO_CHUNKS)
    logits = (queries[0][0] @ key.T * 8**-0.5).masked_fill(torch.ones(256, 256).triu(1).bool(), float("-inf"))
    seen = selection.seen(torch.arange(0, 256, 64), 256).repeat_interleave(64, dim=0)
    torch.testing.assert_close((kept - all_[0]).exp(), (logits.softmax(-1) * seen).sum(-1))


@pytest.mark.usefixtures("always_sparse")
def test_a_prompt_read_in_chunks_equals_one_read_at_once_where_the_budget_is_full(model, ids):
    budgets = plan(model, Budget(700, 700))
    cache = KVCache(model.config, 1, 700)
    parts = [hidden(model, part, budgets, cache=cache) for part in ids.split([300, 260, 139, 1])]
    torch.testing.assert_close(torch.cat(parts, dim=1), hidden(model, ids, None), atol=1e-5, rtol=1e-4)


@pytest.mark.usefixtures("always_sparse")
def test_chunks_of_a_prompt_estimate_for_themselves(model, ids):
    budgets = plan(model, Budget(40, 60))
    cache = KVCache(model.config, 1, 700)
    parts = [hidden(model, part, budgets, cache=cache) for part in ids.split([350, 350])]
    assert error(torch.cat(parts, dim=1), hidden(model, ids, None)) < 0.1


@pytest.mark.usefixtures("always_sparse")
def test_padded_rows_and_packed_documents_are_read_as_if_alone(model, ids):
    budgets = plan(model, Budget(20, 30))
    first, second = ids[:400], ids[400:]
    alone = [hidden(model, part, budgets) for part in (first, second)]
    numbers = torch.tensor([[0] * 400 + [1] * 300])
    packed = hidden(model, ids, budgets, document_ids=numbers)
    torch.testing.assert_close(packed, torch.cat(alone, dim=1), atol=1e-5, rtol=1e-4)
    rows = torch.stack([first, torch.cat([torch.zeros(100, dtype=torch.long), second])])
    cache = KVCache(model.config, 2, 400, start=torch.tensor([0, 100]))
    padded = hidden(model, rows, budgets, cache=cache)
    torch.testing.assert_close(padded[0], alone[0][0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(padded[1, 100:], alone[1][0], atol=1e-5, rtol=1e-4)


def test_short_prompts_and_training_are_dense(ids):
    model = sharpened()
    dense = hidden(model, ids, None)
    assert torch.equal(hidden(model, ids, plan(model, Budget(1, 1), min_tokens=701)), dense)
    model.sparse_prefill = plan(model, Budget(1, 1))
    torch.testing.assert_close(model(ids[None]), dense, atol=1e-5, rtol=1e-4)


# ---- the search -----------------------------------------------------------------------------------------------


def test_the_search_finds_cheap_budgets_that_keep_the_recall(model, ids, monkeypatch):
    monkeypatch.setattr(prefill_search, "DENSE_SHARE", 0.9)  # in 700 tokens a few blocks are much of the text
    found = search(model, ids, recall=0.85, candidates=CANDIDATES, min_tokens=1, sinks=1, local=4)
    assert found.searched_tokens == 700
    assert model.sparse_prefill is None
    model.sparse_prefill = found
    recall, read = measure(model, ids)
    assert float(recall.mean()) == pytest.approx(found.recall, abs=1e-5)
    assert float(read.mean()) == pytest.approx(found.read, abs=1e-5)
    assert float(recall.min()) >= 0.85
    budgets = [budget for layer in found.budgets for budget in layer]
    assert any(budget is not None for budget in budgets)
    assert found.read < 1.0
    cheap = search(model, ids, recall=0.85, read=found.read * 0.8, candidates=CANDIDATES, sinks=1, local=4)
    assert cheap.read <= found.read * 0.8
    assert cheap.recall < found.recall


def test_heads_are_raised_by_what_they_gain_for_their_cost():
    steep = _front([0.1, 0.2, 0.3], [0.5, 0.9, 0.8])
    flat = _front([0.1, 0.3], [0.85, 0.9])
    assert [choice.candidate for choice in steep] == [0, 1, None]  # 2 costs more than 1 and keeps less
    assert [c.candidate for c in _raise_heads([steep, flat], 0.9, 2.0)] == [1, 1]
    assert [c.candidate for c in _raise_heads([steep, flat], 0.9, 0.35)] == [1, 0]
    assert _raise_heads([flat], 0.95, 2.0) == [_Choice(1.0, 1.0, None)]


def test_a_sample_that_is_too_short_is_refused():
    with pytest.raises(ValueError, match="too short"):
        search(sharpened(), torch.arange(100))


def test_measuring_needs_budgets(ids):
    with pytest.raises(ValueError, match="search for its budgets"):
        measure(sharpened(), ids)


# ---- the file -------------------------------------------------------------------------------------------------


def test_budgets_travel_with_the_checkpoint(tmp_path):
    model = sharpened()
    model.sparse_prefill = plan(model, Budget(7, 9), recall=0.97)
    save_model(tmp_path, model)
    assert load_model(tmp_path).sparse_prefill == model.sparse_prefill
    (tmp_path / FILE).unlink()
    assert load_model(tmp_path).sparse_prefill is None


@pytest.mark.parametrize(
    ("change", "message"),
    [({"budgets": [[None] * 8]}, "do not fit the 2 layers of 8 heads"), ({"locale": 3}, "locale"), (None, FILE)],
)
def test_a_file_that_does_not_fit_is_refused(change, message, tmp_path):
    model = sharpened()
    model.sparse_prefill = plan(model, None)
    save_model(tmp_path, model)
    path = tmp_path / FILE
    path.write_text("{" if change is None else json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelFormatError, match=message):
        load_model(tmp_path)
