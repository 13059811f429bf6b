"""config.json both ways: what is kept through ``transformers``, what is refused and by which key."""

import json

import pytest
from model_shapes import CONFIGS, make_config
from transformers import AutoConfig, LlamaConfig

from model.config import DualChunkConfig, ModelFormatError, RopeScaling
from model.hf_config import config_from_hf, config_to_hf, has_biases

EXTENDED = {
    **CONFIGS,
    "yarn": make_config(rope_scaling=RopeScaling(factor=4.0, original_max_position_embeddings=64)),
    "dual chunk": make_config(
        dual_chunk_attention=DualChunkConfig(chunk_size=32, local_size=8, original_max_position_embeddings=64)
    ),
}


@pytest.mark.parametrize("name", EXTENDED)
def test_config_json_round_trip_through_transformers(name, tmp_path):
    config = EXTENDED[name]
    (tmp_path / "config.json").write_text(json.dumps(config_to_hf(config)))
    AutoConfig.from_pretrained(tmp_path).save_pretrained(tmp_path / "theirs")
    assert config_from_hf(config_to_hf(config)) == config
    assert config_from_hf(json.loads((tmp_path / "theirs" / "config.json").read_text())) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "qwen3"}, "model_type is 'qwen3', expected one of qwen2, qwen2_moe, llama"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"mlp_bias": True}, "mlp_bias is True"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding_attention"),
        ({"num_key_value_heads": 3}, "num_attention_heads 4 is not a multiple of num_key_value_heads 3"),
        ({"num_hidden_layers": 0}, "num_hidden_layers: Input should be greater than 0"),
        ({"model_type": "qwen2_moe"}, r"moe\.num_experts: Field required"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "mscale": 0.7}}, r"rope_scaling\.mscale is 0\.7"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 0.5}}, r"rope_scaling\.factor"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        (
            {"dual_chunk_attention_config": {"chunk_size": 8, "local_size": 9}},
            "local_size 9 must be below chunk_size 8",
        ),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"num_attention_heads": 5}, "not a multiple of num_attention_heads 5"),
        ({"head_dim": 64}, "head_dim 64"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rope type 'llama3'"),
    ],
)
def test_a_config_that_cannot_be_reproduced_is_refused(change, message):
    with pytest.raises(ModelFormatError, match=message):
        config_from_hf(config_to_hf(make_config()) | change)


def test_a_llama_config_is_read_as_transformers_reads_it(tmp_path):
    LlamaConfig(hidden_size=64, num_attention_heads=4, num_hidden_layers=2).save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    config = config_from_hf(values)
    assert (config.num_key_value_heads, config.max_position_embeddings, config.rope_theta) == (4, 2048, 10_000.0)
    assert not has_biases(values)
    short = {name: values[name] for name in ("model_type", "vocab_size", "hidden_size", "intermediate_size",
                                             "num_hidden_layers", "num_attention_heads")}  # fmt: skip
    assert config_from_hf(short) == config


def test_only_some_kinds_may_lack_biases():
    values = config_to_hf(make_config())
    assert has_biases(values)
    assert not has_biases(values | {"model_type": "qwen2_moe", "qkv_bias": False})
    assert has_biases(values | {"model_type": "llama", "attention_bias": True})
