"""Exports in every form: read back and measured, named only when they are whole, nothing left of a failure."""

import json

import pytest
import torch
from model_shapes import make_config, make_model
from pydantic import ValidationError
from support import make_run
from transformers import AutoModelForCausalLM, AutoTokenizer

from components.serving import export, formats
from components.serving.export import Agreement
from components.serving.formats import FormatConfig, export_checkpoint
from components.serving.perplexity import comparison_text, perplexity
from components.stage import StageError
from model.checkpoint import load_model, save_model
from model.conversion import convert, open_source
from model.tokenizer import Tokenizer

WIDE = {"hidden_size": 64, "intermediate_size": 96, "vocab_size": 384}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    tokenizer = Tokenizer.train(["the cat sat on the mat", "what is 17 + 25?"], 320)
    save_model(folder, make_model(make_config(**WIDE)), tokenizer)
    return folder


def exported(checkpoint, target, **choices):
    return export_checkpoint(FormatConfig(**choices), checkpoint, target, make_run(target.parent / "run").progress)


def test_a_folder_agrees_with_transformers(checkpoint, tmp_path):
    done = exported(checkpoint, tmp_path / "out")
    assert done["logits_difference"] < 1e-4
    assert done["equal_tokens"] == done["tokens"] > 0
    assert done["bytes"] == sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (checkpoint / "model.safetensors").read_bytes()


def test_a_folder_in_another_type(checkpoint, tmp_path):
    exported(checkpoint, tmp_path / "out", dtype="bfloat16")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == torch.bfloat16


@pytest.mark.parametrize("target", ["model.gguf", "folder"])
def test_a_gguf_file_computes_the_same(checkpoint, tmp_path, target):
    done = exported(checkpoint, tmp_path / target, format="gguf")
    assert done["logits_difference"] == 0.0
    file = tmp_path / target / "model.gguf" if target == "folder" else tmp_path / target
    assert done["path"] == str(tmp_path / target)
    convert(open_source(file), tmp_path / "back")
    first, second = load_model(checkpoint).state_dict(), load_model(tmp_path / "back").state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize("form", ["hf", "gguf"])
@pytest.mark.parametrize(("bits", "most"), [("int8", 0.05), ("int4", 0.2)])
def test_quantised_forms_tell_the_perplexity_before_and_after(checkpoint, tmp_path, form, bits, most):
    (tmp_path / "text").write_text("the cat sat on what is 17. " * 20)
    done = exported(checkpoint, tmp_path / "out", format=form, quantize=bits, text=tmp_path / "text")
    before, after = done["perplexity_before"], done["perplexity_after"]
    assert before == pytest.approx(perplexity_of(checkpoint, tmp_path / "text"), rel=1e-5)
    assert after != before
    assert after == pytest.approx(before, rel=most)
    plain = exported(checkpoint, tmp_path / "plain", format=form, check=False)
    assert done["bytes"] < plain["bytes"] * (0.75 if form == "hf" else 0.45)
    assert AutoTokenizer.from_pretrained(checkpoint).vocab_size  # the exported folder's own is read by the check


def perplexity_of(folder, text):
    """From ``transformers``: the exponential of its own mean loss over the same windows."""
    tokenizer, model = Tokenizer.load(folder), AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = tokenizer.encode(comparison_text(text))
    window, losses = model.config.max_position_embeddings, []
    for start in range(0, len(ids), window):
        part = torch.tensor([[tokenizer.eos_id, *ids[start : start + window]]])
        with torch.no_grad():
            losses.append(model(part, labels=part).loss * (part.shape[1] - 1))
    return torch.exp(sum(losses) / len(ids)).item()


def test_the_python_reference_is_the_text_by_default(checkpoint):
    assert "lambda" in comparison_text()
    tokenizer = Tokenizer.load(checkpoint)
    assert perplexity(load_model(checkpoint), tokenizer, comparison_text(), tokens=64) > 1


def test_what_reads_back_differently_gets_no_name(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "verify", lambda *_, **__: Agreement(0.1, 1, 2))
    with pytest.raises(StageError, match=r"logits differ by 1\.0e-01 from transformers'"):
        exported(checkpoint, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


@pytest.mark.parametrize(
    "choices", [{}, {"format": "gguf"}, {"quantize": "int8"}, {"format": "gguf", "quantize": "int4"}]
)
def test_a_damaged_checkpoint_leaves_nothing_behind(choices, tmp_path):
    model = make_model(make_config(**WIDE))
    with torch.no_grad():
        model.lm_head.weight[-1, -1] = float("nan")
    save_model(tmp_path / "bad", model)
    with pytest.raises(StageError, match=r"lm_head\.weight holds NaN"):
        exported(tmp_path / "bad", tmp_path / "out", **choices)
    assert {path.name for path in tmp_path.iterdir()} == {"bad", "run"}


def test_what_gguf_cannot_say_is_told(checkpoint, tmp_path):
    save_model(tmp_path / "model", make_model(make_config(**WIDE)))
    values = json.loads((tmp_path / "model" / "config.json").read_text())
    values["dual_chunk_attention_config"] = {"chunk_size": 32, "local_size": 8}
    (tmp_path / "model" / "config.json").write_text(json.dumps(values))
    with pytest.raises(StageError, match="GGUF has no dual chunk attention"):
        exported(tmp_path / "model", tmp_path / "out.gguf", format="gguf")


def test_choices_that_exclude_each_other():
    with pytest.raises(ValidationError, match="quantize int8 and dtype float16 exclude each other"):
        FormatConfig(quantize="int8", dtype="float16")


def test_an_unreadable_text_is_named(checkpoint, tmp_path):
    with pytest.raises(StageError, match="absent: cannot be read as text"):
        exported(checkpoint, tmp_path / "out", quantize="int8", text=tmp_path / "absent")
    assert not (tmp_path / "out").exists()


def test_the_module_is_light_to_import():
    assert not hasattr(formats, "torch")
