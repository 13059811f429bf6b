"""Imported checkpoints: complete folders, facts for the manifest, one clear error for what cannot be taken in."""

import json

import pytest
import torch
from model_shapes import make_config, make_model
from safetensors.torch import load_file
from support import make_run
from transformers import LlamaConfig, LlamaForCausalLM

from components.serving.importing import ImportConfig, Mebibytes, import_checkpoint
from components.stage import StageError
from model.checkpoint import load_model, save_model
from model.conversion import open_source
from model.gguf_export import export_gguf
from model.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["the cat sat on the mat", "what is 17 + 25?"], 320)


@pytest.fixture
def llama(tokenizer, tmp_path):
    torch.manual_seed(0)
    shape = {"vocab_size": 320, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
             "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip
    theirs = LlamaForCausalLM(LlamaConfig(**shape)).eval()
    theirs.save_pretrained(tmp_path / "llama")
    tokenizer.save(tmp_path / "llama")
    return tmp_path / "llama", theirs


def taken_in(source, folder, **settings):
    run = make_run(folder)
    return run.output, import_checkpoint(ImportConfig(**settings), source, run.output, run.progress)


def test_a_llama_becomes_a_complete_checkpoint(llama, tokenizer, tmp_path):
    source, theirs = llama
    folder, facts = taken_in(source, tmp_path)
    assert {path.name for path in folder.iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"
    }  # fmt: skip
    ours, ids = load_model(folder), torch.arange(20)[None]
    with torch.no_grad():
        torch.testing.assert_close(ours.logits(ours(ids)), theirs(ids).logits, atol=1e-5, rtol=1e-4)
    assert Tokenizer.load(folder).encode("the cat") == tokenizer.encode("the cat")
    assert facts == {
        "source": "llama", "format": "hf", "parameters": ours.config.num_parameters(),
        "active_parameters": ours.config.num_parameters(), "context_length": 2048, "vocab_size": 320,
        "tokens": tokenizer.vocab_size,
        "conversations": True,
    }  # fmt: skip
    json.dumps(facts)


def test_a_gguf_file_is_dequantised(tokenizer, tmp_path):
    save_model(tmp_path / "model", make_model(make_config(vocab_size=320, hidden_size=32)), tokenizer)
    export_gguf(open_source(tmp_path / "model"), tmp_path / "model.gguf", "int8")
    folder, facts = taken_in(tmp_path / "model.gguf", tmp_path, dtype="bfloat16")
    assert facts["format"] == "gguf"
    assert {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()} == {torch.bfloat16}


def test_a_model_without_words_is_refused(tmp_path):
    save_model(tmp_path / "model", make_model(make_config()))
    with pytest.raises(StageError, match=r"holds no tokenizer \(tokenizer\.json\)"):
        taken_in(tmp_path / "model", tmp_path)


def test_what_is_wrong_is_named(llama, tmp_path):
    source, _ = llama
    values = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(values | {"num_attention_heads": 5}))
    with pytest.raises(StageError, match=r"config\.json: .*hidden_size 32"):
        taken_in(source, tmp_path)


def test_bytes_are_told_in_whole_mebibytes():
    moved: list[int] = []

    class Bar:
        def advance(self, amount: int = 1, **fields: float | str) -> None:
            moved.append(amount)

    tell = Mebibytes(Bar())
    for size in (2**20 - 1, 1, 3 * 2**20 + 5, 2**20 - 5):
        tell(size)
    assert moved == [1, 3, 1]
