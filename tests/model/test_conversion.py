"""Checkpoints of other makers as model folders: equal to ``transformers``, in little memory, refused by name."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from model_shapes import CONFIGS, make_config, make_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
)

from model.checkpoint import INDEX, WEIGHTS, load_model, save_model
from model.config import DualChunkConfig, ModelFormatError, RopeScaling
from model.conversion import convert, converted_bytes, open_source

SHAPE = {
    "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "initializer_range": 0.15,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 10000.0}
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 40,
           "shared_expert_intermediate_size": 72}  # fmt: skip
MODELS = {
    "qwen2, tied": (Qwen2ForCausalLM, Qwen2Config, {"tie_word_embeddings": True}),
    "qwen2, yarn": (Qwen2ForCausalLM, Qwen2Config, {"rope_parameters": YARN, "max_position_embeddings": 64}),
    "experts": (Qwen2MoeForCausalLM, Qwen2MoeConfig, {**EXPERTS, "norm_topk_prob": True}),
    "experts without bias": (Qwen2MoeForCausalLM, Qwen2MoeConfig, {**EXPERTS, "qkv_bias": False}),
    "llama": (LlamaForCausalLM, LlamaConfig, {"rope_theta": 100_000.0}),
    "llama with biases": (LlamaForCausalLM, LlamaConfig, {"attention_bias": True, "tie_word_embeddings": True}),
}


def make_theirs(name: str, folder: Path, **options):
    kind, config, changes = MODELS[name]
    torch.manual_seed(0)
    theirs = kind(config(**SHAPE | changes)).eval()
    with torch.no_grad():
        for key, parameter in theirs.named_parameters():
            if key.endswith("_proj.bias") and "o_proj" not in key:
                parameter.normal_()
    theirs.save_pretrained(folder, **options)
    return theirs


@pytest.mark.parametrize("shard", ["one file", "shards"])
@pytest.mark.parametrize("name", MODELS)
def test_what_transformers_writes_computes_the_same_here_and_back_there(name, shard, tmp_path):
    theirs = make_theirs(name, tmp_path / "theirs", max_shard_size="80KB" if shard == "shards" else "1GB")
    assert (tmp_path / "theirs" / INDEX).exists() == (shard == "shards")
    convert(open_source(tmp_path / "theirs"), tmp_path / "ours", shard_bytes=50_000 if shard == "shards" else 10**9)
    assert (tmp_path / "ours" / INDEX).exists() == (shard == "shards")
    ids = torch.arange(40)[None]
    with torch.no_grad():
        expected = theirs(ids).logits
        ours = load_model(tmp_path / "ours")
        torch.testing.assert_close(ours.logits(ours(ids)), expected, atol=1e-5, rtol=1e-4)
        back = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.float32)
        torch.testing.assert_close(back(ids).logits, expected, atol=1e-5, rtol=1e-4)
    direct = load_model(tmp_path / "theirs")
    assert all(torch.equal(value, direct.state_dict()[key]) for key, value in ours.state_dict().items())


def test_shards_hold_no_more_than_asked(tmp_path):
    save_model(tmp_path / "a", make_model(CONFIGS["experts"]), shard_bytes=20_000)
    source = open_source(tmp_path / "a")
    convert(source, tmp_path / "b", shard_bytes=30_000)
    files = sorted((tmp_path / "b").glob("*.safetensors"))
    sizes = [sum(tensor.nbytes for tensor in load_file(file).values()) for file in files]
    assert (
        sum(sizes)
        == converted_bytes(source)
        == json.loads((tmp_path / "b" / INDEX).read_text())["metadata"]["total_size"]
    )
    largest = max(entry.bytes for entry in source.entries.values())
    assert len(sizes) > 3
    assert max(sizes) <= max(30_000, largest)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_types_are_converted_and_progress_is_told(dtype, tmp_path):
    model = make_model(make_config())
    save_model(tmp_path / "a", model)
    told: list[int] = []
    source = open_source(tmp_path / "a")
    convert(source, tmp_path / "b", dtype=dtype, advance=told.append)
    assert sum(told) == converted_bytes(source, dtype) == 2 * model.config.num_parameters()
    tensors = load_file(tmp_path / "b" / WEIGHTS)
    assert all(torch.equal(value.to(dtype), tensors[name]) for name, value in model.state_dict().items())
    assert json.loads((tmp_path / "b" / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")


def test_values_beyond_float16_are_refused(tmp_path):
    model = make_model(make_config())
    with torch.no_grad():
        model.model.norm.weight[3] = 70_000.0
    save_model(tmp_path / "a", model)
    with pytest.raises(ModelFormatError, match=r"model\.norm\.weight holds values beyond float16"):
        convert(open_source(tmp_path / "a"), tmp_path / "b", dtype=torch.float16)


def test_length_extrapolation_is_kept(tmp_path):
    config = make_config(
        rope_scaling=RopeScaling(factor=4.0, original_max_position_embeddings=64),
        dual_chunk_attention=DualChunkConfig(chunk_size=32, local_size=8, original_max_position_embeddings=64),
    )
    save_model(tmp_path / "a", make_model(config))
    convert(open_source(tmp_path / "a"), tmp_path / "b")
    values = json.loads((tmp_path / "b" / "config.json").read_text())
    assert values["rope_scaling"]["rope_type"] == "yarn"
    assert values["dual_chunk_attention_config"] == {
        "chunk_size": 32, "local_size": 8, "original_max_position_embeddings": 64
    }  # fmt: skip
    assert load_model(tmp_path / "b").config == config


# ---- memory ---------------------------------------------------------------------------------------------


def test_memory_is_a_piece_not_a_model(tmp_path):
    """400 MB in shards of 100 MB, in a process of its own: less than one shard on top of what it needs to start."""
    program = (
        "from benchmarks.conversion import measure; import json, sys; print(json.dumps(measure(sys.argv[1], 400)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert measured["checkpoint_megabytes"] > 350
    assert measured["peak_growth_megabytes"] < measured["shard_megabytes"], measured


# ---- what is refused ------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    save_model(tmp_path / "model", make_model(make_config()), shard_bytes=20_000)
    return tmp_path / "model"


def refused(folder: Path, message: str) -> None:
    with pytest.raises(ModelFormatError, match=message):
        convert(open_source(folder), folder.parent / "converted")


def edit_json(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_pickles_are_not_read(tmp_path):
    make_theirs("llama", tmp_path / "model")
    (tmp_path / "model" / WEIGHTS).rename(tmp_path / "model" / "pytorch_model.bin")
    refused(tmp_path / "model", r"pytorch_model\.bin is a pickle")


def test_quantised_checkpoints_name_their_method(folder):
    edit_json(folder / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    refused(folder, "quantised by gptq")


def test_a_bias_on_the_attention_output_is_refused(tmp_path):
    make_theirs("llama with biases", tmp_path / "model")
    tensors = load_file(tmp_path / "model" / WEIGHTS)
    tensors["model.layers.1.self_attn.o_proj.bias"][0] = 0.1
    save_file(tensors, tmp_path / "model" / WEIGHTS)
    refused(tmp_path / "model", r"model\.layers\.1\.self_attn\.o_proj\.bias is not zero")


def test_another_output_matrix_contradicts_the_tie(tmp_path):
    save_model(tmp_path / "model", make_model(make_config()))
    edit_json(tmp_path / "model" / "config.json", tie_word_embeddings=True)
    refused(tmp_path / "model", r"lm_head\.weight is not model\.embed_tokens\.weight, although config\.json says tie")


def test_a_repeated_output_matrix_is_left_out(tmp_path):
    save_model(tmp_path / "model", make_model(make_config(tie_word_embeddings=True)))
    tensors = load_file(tmp_path / "model" / WEIGHTS)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, tmp_path / "model" / WEIGHTS)
    convert(open_source(tmp_path / "model"), tmp_path / "converted")
    assert "lm_head.weight" not in load_file(tmp_path / "converted" / WEIGHTS)


def test_a_missing_output_matrix_points_at_the_tie(tmp_path):
    save_model(tmp_path / "model", make_model(make_config(tie_word_embeddings=True)))
    edit_json(tmp_path / "model" / "config.json", tie_word_embeddings=False)
    refused(tmp_path / "model", r"missing tensor lm_head\.weight \(1 missing in all\); see tie_word_embeddings")


def test_a_vocabulary_of_another_size_names_the_embeddings(folder):
    edit_json(folder / "config.json", vocab_size=210)
    refused(folder, r"model\.embed_tokens\.weight has shape \(200, 32\), the config says \(210, 32\)")


def test_a_tokenizer_with_more_tokens_than_rows_is_refused(folder, tokenizer):
    tokenizer.save(folder)
    refused(folder, rf"the tokenizer has {tokenizer.vocab_size} tokens, the embeddings have 200 rows \(vocab_size\)")


def test_numbers_that_are_no_weights_are_refused(tmp_path):
    save_model(tmp_path / "model", make_model(make_config()))
    tensors = load_file(tmp_path / "model" / WEIGHTS)
    tensors["model.norm.weight"] = tensors["model.norm.weight"].to(torch.int8)
    save_file(tensors, tmp_path / "model" / WEIGHTS)
    refused(tmp_path / "model", r"model\.norm\.weight is of type torch\.int8")


def test_nan_in_the_last_piece_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr("model.tensor_files.PIECE", 512)
    model = make_model(make_config())
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[-1, -1] = float("nan")
    save_model(tmp_path / "model", model)
    refused(tmp_path / "model", r"model\.layers\.1\.mlp\.down_proj\.weight holds NaN")


def test_an_index_that_names_the_wrong_file_is_refused(folder):
    values = json.loads((folder / INDEX).read_text())
    values["weight_map"]["model.norm.weight"] = sorted(values["weight_map"].values())[0]
    (folder / INDEX).write_text(json.dumps(values))
    refused(folder, rf"holds no model\.norm\.weight, although {INDEX} says so")


def test_an_index_may_not_lead_elsewhere(folder):
    values = json.loads((folder / INDEX).read_text())
    values["weight_map"]["model.norm.weight"] = "../../model.safetensors"
    (folder / INDEX).write_text(json.dumps(values))
    refused(folder, "is no file name")


def test_a_tensor_in_two_files_is_refused(folder):
    files = sorted(folder.glob("*.safetensors"))
    tensors = [load_file(file) for file in files]
    save_file(tensors[0] | {"model.norm.weight": torch.ones(32)}, files[0])
    refused(folder, r"model\.norm\.weight is in model-00001-of-\d+\.safetensors and in model-")


def test_a_truncated_shard_is_named(folder):
    file = sorted(folder.glob("*.safetensors"))[1]
    file.write_bytes(file.read_bytes()[:-100])
    refused(folder, rf"{file.name}: not a whole safetensors file")


def test_nothing_there(tmp_path):
    refused(tmp_path / "nowhere", "no such file or folder")
