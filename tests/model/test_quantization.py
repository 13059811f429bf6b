"""Quantised layers against plain arithmetic, quantised folders against ``transformers``, refusals by name."""

import json
import pickle
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from model_shapes import CONFIGS, make_config, make_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from model.checkpoint import INDEX, WEIGHTS, load_model, save_model
from model.config import ModelFormatError
from model.conversion import open_source
from model.quantization import GROUP, QuantizedLinear, quantise
from model.quantized_folder import export_quantized, quantised_bytes

BITS = ("int8", "int4")
WIDE = {"hidden_size": 64, "intermediate_size": 96, "vocab_size": 384}
EXPERTS = CONFIGS["experts"].moe.model_copy(
    update={"moe_intermediate_size": 32, "shared_expert_intermediate_size": 64}
)  # fmt: skip
MODELS = {
    "dense, tied": make_config(**WIDE, tie_word_embeddings=True),
    "untied": make_config(4, 4, **WIDE),
    "experts": make_config(4, 1, **WIDE, moe=EXPERTS),
}


def quantised(folder: Path, config, bits: str, dtype=torch.float32, **options) -> Path:
    save_model(folder / "plain", make_model(config).to(dtype))
    export_quantized(open_source(folder / "plain"), folder / bits, bits, **options)
    return folder / bits


@pytest.mark.parametrize("bits", BITS)
def test_a_matrix_is_rounded_to_the_nearest_step(bits):
    matrix = torch.randn(48, 128, generator=torch.Generator().manual_seed(0))
    found = QuantizedLinear(quantise(matrix, bits), torch.float32).weight
    if bits == "int8":
        step = matrix.abs().amax(1, keepdim=True) / 127.5
        slack = 0.01
    else:
        grouped = matrix.unflatten(1, (-1, GROUP))
        step = (grouped.amax(-1) - grouped.amin(-1)).div(15).repeat_interleave(GROUP, dim=1)
        slack = 0.1  # scale and offset are bfloat16
    assert ((found - matrix).abs() <= step * (0.5 + slack)).all()


def test_int4_reaches_both_ends_and_constant_groups_survive():
    matrix = torch.linspace(-1, 1, 64).reshape(1, 64).repeat(16, 1)
    matrix[3] = 0.25
    found = QuantizedLinear(quantise(matrix, "int4"), torch.float32).weight
    torch.testing.assert_close(found[3], matrix[3], atol=1e-3, rtol=0)
    assert found[0].unique().numel() == 32  # 16 values in each of the two groups


@pytest.mark.parametrize("rows", [16, 24], ids=["kernel", "no kernel"])
@pytest.mark.parametrize("bits", BITS)
def test_a_layer_computes_with_its_weight(bits, rows):
    generator = torch.Generator().manual_seed(1)
    layer = QuantizedLinear(quantise(torch.randn(rows, 64, generator=generator), bits), torch.float32)
    layer.bias = torch.nn.Parameter(torch.randn(rows, generator=generator), requires_grad=False)
    x = torch.randn(2, 5, 64, generator=generator)
    expected = F.linear(x, layer.weight, layer.bias)
    tolerance = 1e-4 if bits == "int8" or rows % 16 else 0.05  # the int4 kernel reads bfloat16
    torch.testing.assert_close(layer(x), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", MODELS)
def test_a_folder_computes_what_its_rounded_weights_compute(name, bits, tmp_path):
    config = MODELS[name]
    loaded = load_model(quantised(tmp_path, config, bits))
    assert loaded.config == config
    rounded, plain = make_model(config), make_model(config)
    changed = 0
    with torch.no_grad():
        for module, own in zip(rounded.model.layers, loaded.model.layers, strict=True):
            for part in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp"):
                if part != "mlp":
                    module.get_submodule(part).weight.copy_(own.get_submodule(part).weight)
                    changed += 1
                    continue
                feed_forward, quantised_one = module.mlp, own.mlp
                if config.moe:
                    for matrix in ("gate_proj", "up_proj", "down_proj"):
                        getattr(feed_forward.experts, matrix).copy_(getattr(quantised_one.experts, matrix))
                    feed_forward, quantised_one = feed_forward.shared_expert, quantised_one.shared_expert
                for matrix in ("gate_proj", "up_proj", "down_proj"):
                    getattr(feed_forward, matrix).weight.copy_(getattr(quantised_one, matrix).weight)
                    changed += 1
    assert changed == 14
    ids = torch.arange(40)[None]
    with torch.no_grad():
        ours, expected, before = (model.logits(model(ids)) for model in (loaded, rounded, plain))
    near = 1e-4 if bits == "int8" else 0.02
    assert (ours - expected).abs().max() <= near * expected.abs().max()
    assert not torch.equal(ours, before)
    assert F.cosine_similarity(ours.flatten(), before.flatten(), dim=0) > (0.999 if bits == "int8" else 0.9)


def test_transformers_reads_int8_alike(tmp_path):
    folder = quantised(tmp_path, MODELS["dense, tied"], "int8")
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert type(theirs.model.layers[0].mlp.up_proj.weight).__name__ == "Int8Tensor"
    ours, ids = load_model(folder), torch.arange(40)[None]
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, ours.logits(ours(ids)), atol=1e-4, rtol=1e-4)


def test_transformers_reads_int4_alike(tmp_path):
    """The kernels for it are those of a GPU, so the parts are compared."""
    folder = quantised(tmp_path, MODELS["dense, tied"], "int4")
    theirs = AutoModelForCausalLM.from_pretrained(folder).model.layers[1].mlp.down_proj.weight
    ours = load_model(folder).model.layers[1].mlp.down_proj.stored
    assert type(theirs).__name__ == type(ours).__name__ == "Int4Tensor"
    for part in ("qdata", "scale", "zero_point"):
        assert torch.equal(getattr(theirs, part), getattr(ours, part)), part


@pytest.mark.parametrize("bits", BITS)
def test_shards_sizes_and_progress(bits, tmp_path):
    told: list[int] = []
    folder = quantised(tmp_path, MODELS["untied"], bits, torch.bfloat16, shard_bytes=30_000, advance=told.append)
    tensors = {k: v for file in folder.glob("*.safetensors") for k, v in load_file(file).items()}
    assert (folder / INDEX).exists()
    size = sum(tensor.nbytes for tensor in tensors.values())
    assert size == sum(told) == quantised_bytes(open_source(tmp_path / "plain"), bits)
    weight = "model.layers.0.mlp.up_proj"
    assert tensors[f"{weight}._weight_qdata"].nbytes == 96 * 64 // (1 if bits == "int8" else 2)
    assert tensors["lm_head.weight"].dtype == torch.bfloat16
    again = load_model(folder)
    export = quantised(tmp_path / "one", MODELS["untied"], bits, torch.bfloat16)
    one = load_model(export)
    ids = torch.arange(20)[None]
    assert torch.equal(again.logits(again(ids)), one.logits(one(ids)))


def test_widths_that_are_no_groups_keep_their_type(tmp_path):
    folder = quantised(tmp_path, make_config(), "int4")  # the feed-forward network is 72 wide
    tensors = load_file(folder / WEIGHTS)
    assert tensors["model.layers.0.mlp.down_proj.weight"].dtype == torch.float32
    assert "model.layers.0.mlp.up_proj._weight_qdata" in tensors
    model = load_model(folder)
    assert torch.isfinite(model.logits(model(torch.arange(9)[None]))).all()


def test_no_pickle_is_written_or_read(tmp_path, monkeypatch):
    monkeypatch.setattr(pickle, "load", None)
    monkeypatch.setattr(torch, "load", None)
    folder = quantised(tmp_path, MODELS["untied"], "int4")
    assert {file.suffix for file in folder.iterdir()} == {".json", ".safetensors"}
    load_model(folder)


def edited(folder: Path, change) -> Path:
    tensors = load_file(folder / WEIGHTS)
    with safe_open(folder / WEIGHTS, "pt") as file:
        metadata = file.metadata()
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata)
    return folder


SCALE = "model.layers.1.mlp.up_proj._weight_scale"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop(SCALE), rf"missing tensor {SCALE}"),
        (lambda tensors: tensors.pop("model.norm.weight"), r"missing tensor model\.norm\.weight"),
        (lambda tensors: tensors.update(extra=torch.ones(2)), "unexpected tensor extra"),
        (lambda tensors: tensors[SCALE].fill_(float("nan")), rf"{SCALE} holds NaN"),
        (lambda tensors: tensors.update({"model.norm.weight": torch.ones(3)}), r"model\.norm\.weight has shape \(3,\)"),
    ],
)
@pytest.mark.parametrize("bits", BITS)
def test_a_damaged_folder_is_refused_by_name(bits, change, message, tmp_path):
    folder = edited(quantised(tmp_path, MODELS["untied"], bits), change)
    with pytest.raises(ModelFormatError, match=message):
        load_model(folder)


def test_a_quantised_folder_is_not_converted_again(tmp_path):
    folder = quantised(tmp_path, MODELS["untied"], "int8")
    with pytest.raises(ModelFormatError, match="quantised by torchao; convert the checkpoint that it was made from"):
        open_source(folder)


def test_transformers_config_names_the_method(tmp_path):
    values = json.loads((quantised(tmp_path, MODELS["untied"], "int8") / "config.json").read_text())
    assert values["quantization_config"]["quant_method"] == "torchao"
