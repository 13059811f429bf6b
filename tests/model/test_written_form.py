"""Folders whose tokenizer is not Qwen's: written as a Llama, which ``transformers`` reads as this platform does."""

import json

import pytest
import torch
from model_shapes import make_config, make_model
from tokenizers import models
from transformers import AutoModelForCausalLM, AutoTokenizer

from model.byte_level import backend
from model.checkpoint import load_model, save_model
from model.conversion import convert, open_source
from model.quantized_folder import export_quantized
from model.tokenizer import Tokenizer


@pytest.fixture
def other(tmp_path) -> Tokenizer:
    """A tokenizer that cuts text as SmolLM does, not as Qwen."""
    made = Tokenizer.train(["the cat sat on the mat", "x   12 and 345"], 320)
    merges = [tuple(pair) for pair in json.loads(made._backend.to_str())["model"]["merges"]]
    vocabulary = made._backend.get_vocab(with_added_tokens=False)
    return Tokenizer(backend(models.BPE(vocab=vocabulary, merges=merges), "smollm"))


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("form", ["saved", "converted", "int8"])
def test_a_foreign_tokenizer_is_read_by_transformers_as_here(other, biased, form, tmp_path):
    assert not other.cuts_like_qwen
    model = make_model(make_config(vocab_size=320))
    if not biased:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("_proj.bias"):
                    parameter.zero_()
    folder = tmp_path / "saved"
    save_model(folder, model, other)
    if form == "converted":
        convert(open_source(folder), tmp_path / "converted")
    elif form == "int8":
        export_quantized(open_source(folder), tmp_path / "int8", "int8")
    folder = tmp_path / form
    sample = "x   12\n    0: the cat, naïve 你好 ＡＢ"
    assert AutoTokenizer.from_pretrained(folder).encode(sample, add_special_tokens=False) == other.encode(sample)
    values = json.loads((folder / "config.json").read_text())
    assert (values["model_type"], values["attention_bias"]) == ("llama", biased)
    ours, ids = load_model(folder), torch.arange(40)[None]
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(ours.logits(ours(ids)), theirs(ids).logits, atol=1e-4, rtol=1e-4)
    if form != "int8":
        state = ours.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
