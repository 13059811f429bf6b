"""Exported folders agree with ``transformers``; a folder that does not is refused."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support import make_artifact, make_run

from components.serving import export
from components.serving.export import ALIASES, Agreement, ExportConfig, export_checkpoints
from components.stage import StageError
from model.checkpoint import save_model
from model.config import ModelConfig
from model.tokenizer import Tokenizer
from model.transformer import Transformer


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    tokenizer = Tokenizer.train(["the cat sat on the mat", "what is 17 + 25?", "def add(a, b): return a"], 320)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True, initializer_range=0.2,
    )  # fmt: skip
    inputs = {}
    for seed, alias in enumerate(ALIASES):
        folder = tmp_path_factory.mktemp(alias)
        save_model(folder, Transformer(config).init_weights(seed), tokenizer)
        (folder / "training.json").write_text(json.dumps({"objective": "test", "steps": 7, "tokens": 70}))
        inputs[alias] = make_artifact("checkpoint", folder)
    return inputs


@pytest.fixture(scope="module")
def exported(checkpoints, tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("run"))
    return run, export_checkpoints(ExportConfig(), checkpoints, run)


def test_every_alias_gets_a_complete_folder(exported):
    run, summary = exported
    for alias in ALIASES:
        names = {path.name for path in (run.output / alias).iterdir()}
        assert names == {
            "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
            "README.md",
        }  # fmt: skip
        assert "| steps | 7 |" in (run.output / alias / "README.md").read_text()
    assert list(summary["models"]) == list(ALIASES)


def test_effects_are_measured_for_every_alias(exported):
    _, summary = exported
    shares = [item for item in summary["effects"] if "greedy" in item["name"]]
    gaps = [item for item in summary["effects"] if "logits" in item["name"]]
    assert len(shares) == len(gaps) == len(ALIASES)
    assert all(item["value"] == 1.0 for item in shares)
    assert all(0 <= item["value"] <= 1e-4 for item in gaps)


def test_same_inputs_give_the_same_bytes_and_summary(checkpoints, exported, tmp_path):
    first, summary = exported
    second = make_run(tmp_path)
    assert export_checkpoints(ExportConfig(), checkpoints, second) == summary
    for path in sorted(first.output.rglob("*")):
        if path.is_file():
            assert (second.output / path.relative_to(first.output)).read_bytes() == path.read_bytes(), path


def test_bfloat16_export_is_half_the_size_and_verified(checkpoints, exported, tmp_path):
    summary = export_checkpoints(ExportConfig(dtype="bfloat16", prompts=6), checkpoints, make_run(tmp_path))
    full = exported[1]["models"]["base"]["bytes"]
    assert summary["models"]["base"]["bytes"] < 0.6 * full


def test_a_model_that_computes_something_else_is_refused(checkpoints, tmp_path, monkeypatch):
    plain = Transformer.logits
    monkeypatch.setattr(Transformer, "logits", lambda self, hidden: plain(self, hidden) + 0.01)
    with pytest.raises(StageError, match=r"base: logits differ from transformers' by 0\.01"):
        export_checkpoints(ExportConfig(), checkpoints, make_run(tmp_path))


def test_different_greedy_tokens_are_refused(checkpoints, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "verify", lambda *_, **__: Agreement(0.0, 31, 32))
    with pytest.raises(StageError, match="base: only 31 of 32 greedy tokens"):
        export_checkpoints(ExportConfig(), checkpoints, make_run(tmp_path))


def test_an_unreadable_checkpoint_names_the_tensor(checkpoints, tmp_path):
    broken = tmp_path / "broken"
    tokenizer = Tokenizer.load(checkpoints["base"].path)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1,
    )  # fmt: skip
    model = Transformer(config).init_weights(0)
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    save_model(broken, model, tokenizer)
    inputs = checkpoints | {"base": make_artifact("checkpoint", broken)}
    with pytest.raises(StageError, match=r"base checkpoint.*model\.norm\.weight"):
        export_checkpoints(ExportConfig(), inputs, make_run(tmp_path / "run"))


def test_config_is_light_to_import():
    code = "import sys, components.serving.export; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    root = Path(__file__).parents[3]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
