"""Model folders: round trips, equal bytes, shards, and errors that name what is wrong."""

import json

import pytest
import torch
from model_shapes import CONFIGS, make_config, make_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GenerationConfig, Qwen2Config, Qwen2ForCausalLM

from model.checkpoint import INDEX, WEIGHTS, load_model, save_model
from model.config import ModelFormatError


@pytest.fixture
def folder(tmp_path):
    save_model(tmp_path, make_model(make_config(4, 2)))
    return tmp_path


def edit_tensors(folder, change):
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


@pytest.mark.parametrize("name", CONFIGS)
def test_round_trip_is_exact(name, tmp_path):
    model = make_model(CONFIGS[name])
    save_model(tmp_path, model)
    loaded = load_model(tmp_path)
    assert loaded.config == model.config
    state = model.state_dict()
    assert loaded.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in loaded.state_dict().items())
    ids = torch.arange(20)[None]
    assert torch.equal(loaded(ids), model(ids))


@pytest.mark.parametrize("name", CONFIGS)
def test_equal_models_give_equal_bytes(name, tmp_path):
    for part in ("a", "b"):
        save_model(tmp_path / part, make_model(CONFIGS[name]))
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_reads_what_transformers_writes_in_shards(tmp_path):
    torch.manual_seed(0)
    theirs = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=300,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=False,
        )
    ).eval()
    theirs.save_pretrained(tmp_path, max_shard_size="100KB")
    assert (tmp_path / INDEX).exists()
    ours, ids = load_model(tmp_path), torch.arange(30)[None]
    with torch.no_grad():
        torch.testing.assert_close(ours.logits(ours(ids)), theirs(ids).logits, atol=1e-5, rtol=1e-4)
    next(iter(tmp_path.glob("model-00002*"))).unlink()
    with pytest.raises(ModelFormatError, match=r"model-00002-of-\d+\.safetensors, named in .*, is missing"):
        load_model(tmp_path)


def test_experts_are_stored_under_their_published_names(tmp_path):
    save_model(tmp_path, make_model(CONFIGS["experts"]))
    tensors = load_file(tmp_path / WEIGHTS)
    assert tensors["model.layers.1.mlp.experts.5.down_proj.weight"].shape == (32, 24)
    assert tensors["model.layers.0.mlp.shared_expert_gate.weight"].shape == (1, 32)


def test_bfloat16_is_kept_on_disk(tmp_path):
    save_model(tmp_path, make_model(make_config(4, 2)).bfloat16())
    assert load_file(tmp_path / WEIGHTS)["lm_head.weight"].dtype == torch.bfloat16
    assert load_model(tmp_path).output_weight.dtype == torch.float32
    assert AutoModelForCausalLM.from_pretrained(tmp_path).dtype == torch.bfloat16


def test_generation_config_stops_at_both_ends(tmp_path, tokenizer):
    save_model(tmp_path, make_model(make_config(vocab_size=tokenizer.vocab_size)), tokenizer)
    assert GenerationConfig.from_pretrained(tmp_path).eos_token_id == [tokenizer.im_end_id, tokenizer.eos_id]


def test_missing_tensor_is_named(folder):
    edit_tensors(folder, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(ModelFormatError, match=r"missing tensor model\.layers\.1\.mlp\.up_proj\.weight"):
        load_model(folder)


def test_extra_tensor_is_named(folder):
    edit_tensors(folder, lambda tensors: tensors.update({"model.layers.0.extra": torch.zeros(1)}))
    with pytest.raises(ModelFormatError, match=r"unexpected tensor model\.layers\.0\.extra"):
        load_model(folder)


def test_misshapen_tensor_is_named_with_both_shapes(folder):
    edit_tensors(folder, lambda tensors: tensors.update({"model.norm.weight": torch.ones(7)}))
    with pytest.raises(ModelFormatError, match=r"model\.norm\.weight has shape \(7,\), the config says \(32,\)"):
        load_model(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_is_named(folder, value):
    edit_tensors(folder, lambda tensors: tensors["model.layers.0.self_attn.q_proj.weight"][0].fill_(value))
    with pytest.raises(ModelFormatError, match=r"model\.layers\.0\.self_attn\.q_proj\.weight holds NaN"):
        load_model(folder)


@pytest.mark.parametrize("kept", [0, 5, 200, -10])
def test_truncated_file_is_named(folder, kept):
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ModelFormatError, match=f"{WEIGHTS}: not a whole safetensors file"):
        load_model(folder)


def test_contradicting_config_is_refused(folder):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_key_value_heads": 4}))
    with pytest.raises(ModelFormatError, match="k_proj"):
        load_model(folder)


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_unreadable_config_is_named(folder, content):
    path = folder / "config.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(ModelFormatError, match=r"config\.json"):
        load_model(folder)


def test_no_weights_at_all(folder):
    (folder / WEIGHTS).unlink()
    with pytest.raises(ModelFormatError, match=f"neither {WEIGHTS} nor {INDEX}"):
        load_model(folder)
