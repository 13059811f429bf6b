"""Budgets for a model folder: written where the model is loaded from, measured on text that the search has not seen."""

import pytest
from model_shapes import make_config, make_model

from components.serving.sparse import SparseConfig, make_sparse
from components.stage import StageError
from model.checkpoint import load_model, save_model
from model.sparse_prefill import SparsePrefill
from model.tokenizer import Tokenizer

TEXT = "".join(f"{n} cats sat on {n * n} mats, and the {n % 7} dogs did not. " for n in range(120))


@pytest.fixture
def folder(tmp_path):
    tokenizer = Tokenizer.train([TEXT], 400)
    save_model(tmp_path / "model", make_model(make_config(vocab_size=tokenizer.vocab_size)), tokenizer)
    (tmp_path / "text").write_text(TEXT)
    return tmp_path


def test_budgets_are_kept_with_the_model_and_measured_on_other_text(folder):
    summary = make_sparse(folder / "model", folder / "text", SparseConfig(tokens=256, recall=0.5, min_tokens=1))
    plan = load_model(folder / "model").sparse_prefill
    assert isinstance(plan, SparsePrefill)
    assert (plan.recall, plan.read, plan.searched_tokens) == (summary["recall"], summary["read"], 256)
    assert summary["heads"] == 8
    assert 0.5 <= summary["held_out_recall"] <= 1.0
    assert summary["held_out_loss"] == pytest.approx(summary["held_out_loss_dense"], rel=0.1)


def test_a_short_text_is_refused(folder):
    with pytest.raises(StageError, match="the search wants 8,192"):
        make_sparse(folder / "model", folder / "text", SparseConfig())
    with pytest.raises(StageError, match="cannot be read"):
        make_sparse(folder / "model", folder / "nowhere", SparseConfig())
