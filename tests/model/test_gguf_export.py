"""Exported GGUF files: what they were made from comes back, ``transformers`` reads them alike, refusals by name."""

import json
from pathlib import Path

import gguf
import pytest
import torch
from model_shapes import CONFIGS, make_config, make_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from model.checkpoint import WEIGHTS, load_config, load_model, save_model
from model.config import DualChunkConfig, ModelFormatError, RopeScaling
from model.conversion import convert, open_source
from model.gguf_export import export_gguf
from model.gguf_names import from_gguf, to_gguf
from model.gguf_source import GGUFSource
from model.sources import layout
from model.tokenizer import Tokenizer

NOT_KEPT = {"initializer_range": 0.02}
"""What a GGUF file has no key for: it is of interest to training alone."""
WIDE = {"hidden_size": 64, "intermediate_size": 96, "vocab_size": 384}


def saved(folder: Path, config, tokenizer=None, dtype=torch.float32) -> Path:
    save_model(folder, make_model(config).to(dtype), tokenizer)
    return folder


def through_gguf(folder: Path, kind=None) -> Path:
    """Export the folder and import it again."""
    file = folder.with_suffix(".gguf")
    export_gguf(open_source(folder), file, kind)
    convert(open_source(file), folder.with_suffix(".back"))
    return folder.with_suffix(".back")


def assert_same_weights(first: Path, second: Path, **tolerance) -> None:
    a, b = load_model(first).state_dict(), load_model(second).state_dict()
    for name, value in a.items():
        torch.testing.assert_close(b[name], value, **(tolerance or {"rtol": 0, "atol": 0}))


@pytest.mark.parametrize("name", [name for name in CONFIGS if "normalised" not in name])
def test_a_file_gives_back_the_folder_that_it_was_made_from(name, tmp_path):
    folder = saved(tmp_path / "model", CONFIGS[name])
    back = through_gguf(folder)
    assert (back / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()
    assert load_config(back) == load_config(folder).model_copy(update=NOT_KEPT)


def test_config_and_tokenizer_come_back_too(tokenizer, tmp_path):
    config = make_config(
        vocab_size=400, rms_norm_eps=1e-5, rope_theta=1_000_000.0,
        rope_scaling=RopeScaling(
            factor=4.0, original_max_position_embeddings=64, beta_fast=30.0, attention_factor=1.25
        ),
    )  # fmt: skip
    folder = saved(tmp_path / "model", config, tokenizer)
    back = through_gguf(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (back / name).read_bytes() == (folder / name).read_bytes(), name
    loaded = load_model(back).config
    assert loaded.rope_scaling.attention_factor == pytest.approx(1.25)
    assert loaded == config.model_copy(update={"rope_scaling": loaded.rope_scaling, **NOT_KEPT})


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_half_precision_rounds_matrices_once(kind, tmp_path):
    folder = saved(tmp_path / "model", make_config(**WIDE))
    dtype = getattr(torch, kind)
    first, second = load_model(folder).state_dict(), load_model(through_gguf(folder, kind)).state_dict()
    for name, value in first.items():
        expected = value.to(dtype).float() if value.dim() > 1 else value
        assert torch.equal(second[name], expected), name


def test_the_type_is_that_of_the_checkpoint_by_default(tmp_path):
    folder = saved(tmp_path / "model", make_config(**WIDE), dtype=torch.bfloat16)
    back = through_gguf(folder)
    assert json.loads((back / "config.json").read_text())["dtype"] == "bfloat16"
    assert_same_weights(folder, back)


@pytest.mark.parametrize(("kind", "type_", "error"), [("int8", "Q8_0", 0.5 / 127), ("int4", "Q4_1", 1.2 / 15)])
def test_quantised_blocks_are_near_and_come_back_identically(kind, type_, error, tmp_path):
    folder = saved(tmp_path / "model", make_config(**WIDE))
    back = through_gguf(folder, kind)
    kinds = {t.name: t.tensor_type.name for t in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    assert kinds["blk.0.ffn_down.weight"] == kinds["blk.1.attn_q.weight"] == type_
    assert kinds["token_embd.weight"] == "Q8_0"
    assert kinds["blk.0.attn_q.bias"] == kinds["output_norm.weight"] == "F32"
    scale = float(load_model(folder).model.layers[0].mlp.up_proj.weight.detach().abs().max())
    assert_same_weights(folder, back, rtol=0, atol=2 * scale * error)
    again = through_gguf(back, kind)
    assert_same_weights(back, again, rtol=0, atol=scale * 1e-3)  # scales are float16: nothing is quantised twice


def test_widths_that_are_no_blocks_stay_float16(tmp_path):
    folder = saved(tmp_path / "model", CONFIGS["experts"])
    export_gguf(open_source(folder), tmp_path / "model.gguf", "int8")
    kinds = {t.name: t.tensor_type.name for t in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    assert kinds["blk.0.ffn_gate_exps.weight"] == "Q8_0"  # 32 wide
    assert kinds["blk.0.ffn_down_exps.weight"] == "F16"  # 24 wide
    assert kinds["blk.0.ffn_gate_inp.weight"] == "F32"


@pytest.mark.parametrize("name", ["grouped, tied", "multi-head, untied", "experts"])
def test_transformers_reads_our_file_alike(name, tmp_path, tokenizer):
    config = CONFIGS[name].model_copy(update={"vocab_size": tokenizer.vocab_size})
    saved(tmp_path / "model", config, tokenizer)
    export_gguf(open_source(tmp_path / "model"), tmp_path / "model.gguf")
    options = {} if config.moe is None else {
        # What its reader of this architecture leaves at the default.
        "shared_expert_intermediate_size": config.moe.shared_expert_intermediate_size,
        "moe_intermediate_size": config.moe.moe_intermediate_size,
    }  # fmt: skip
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", dtype=torch.float32, **options)
    ours, ids = load_model(tmp_path / "model"), torch.arange(30)[None]
    with torch.no_grad():
        torch.testing.assert_close(ours.logits(ours(ids)), theirs(ids).logits, atol=1e-4, rtol=1e-4)
    auto = AutoTokenizer.from_pretrained(tmp_path, gguf_file="model.gguf")
    sample = "The cat sat on 12 mats, naïve 你好"
    assert auto.encode(sample, add_special_tokens=False) == tokenizer.encode(sample)
    turn = [{"role": "user", "content": "Hi"}]
    rendered = auto.apply_chat_template(turn, add_generation_prompt=True, return_dict=False)
    assert list(rendered) == tokenizer.render_chat(turn)


# ---- tokenizers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("tokenizer.ggml.model", "llama", "tokenizer 'llama' is not byte-level BPE"),
        ("tokenizer.ggml.pre", "command-r", r"tokenizer\.ggml\.pre 'command-r' is none of qwen2"),
        ("tokenizer.ggml.add_bos_token", True, r"puts <\|endoftext\|> into every text"),
        ("tokenizer.ggml.token_type", [1], "do not belong together"),
    ],
)
def test_a_vocabulary_of_another_kind_is_refused(tokenizer, key, value, message, tmp_path, monkeypatch):
    saved(tmp_path / "model", make_config(vocab_size=360), tokenizer)
    export_gguf(open_source(tmp_path / "model"), tmp_path / "model.gguf")
    source = GGUFSource(tmp_path / "model.gguf")
    stored = source.meta.get
    monkeypatch.setattr(source.meta, "get", lambda name, default=None: value if name == key else stored(name, default))
    with pytest.raises(ModelFormatError, match=message):
        source.tokenizer()


def test_a_way_to_cut_that_has_no_name_is_refused(tokenizer, tmp_path):
    saved(tmp_path / "model", make_config(vocab_size=360), tokenizer)
    path = tmp_path / "model" / "tokenizer.json"
    values = json.loads(path.read_text())
    values["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\s+"
    path.write_text(json.dumps(values))
    assert Tokenizer.load(tmp_path / "model").encode("a b")
    with pytest.raises(ModelFormatError, match="no name for how this tokenizer cuts text"):
        export_gguf(open_source(tmp_path / "model"), tmp_path / "model.gguf")


# ---- what GGUF cannot say -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (make_config(dual_chunk_attention=DualChunkConfig(chunk_size=32, local_size=8)), "no dual chunk attention"),
        (CONFIGS["experts, normalised, tied"], "norm_topk_prob"),
    ],
)
def test_a_config_that_readers_would_compute_differently_is_refused(config, message, tmp_path):
    with pytest.raises(ModelFormatError, match=message):
        export_gguf(open_source(saved(tmp_path / "model", config)), tmp_path / "model.gguf")


def test_values_beyond_float16_are_refused(tmp_path):
    model = make_model(make_config())
    with torch.no_grad():
        model.lm_head.weight[0, 0] = 1e6
    save_model(tmp_path / "model", model)
    with pytest.raises(ModelFormatError, match=r"lm_head\.weight holds values beyond float16"):
        export_gguf(open_source(tmp_path / "model"), tmp_path / "model.gguf", "float16")


@pytest.mark.parametrize("name", CONFIGS)
def test_names_go_both_ways(name):
    config = CONFIGS[name]
    for ours in layout(config):
        theirs, expert = to_gguf(ours)
        assert from_gguf(theirs, config.moe.num_experts if config.moe else 0)[expert or 0] == ours
    assert from_gguf("blk.0.ssm_a") == []
    with pytest.raises(KeyError):
        to_gguf("model.layers.0.extra")
