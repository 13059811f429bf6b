"""Counts of the published sizes, FLOPs by hand, impossible shapes."""

import subprocess
import sys
from pathlib import Path

import pytest
from model_shapes import make_config
from pydantic import ValidationError

from model.config import PUBLISHED, DualChunkConfig, ModelConfig, MoEConfig

# Elements in the published weight files, and billions (total, without embeddings) that the model cards tell. The
# cards cut digits off, and for 32B and 72B they lie up to 0.8% below what the files hold.
PUBLISHED_SIZES = {
    "0.5b": (494_032_768, 0.49, 0.36),
    "1.5b": (1_543_714_304, 1.54, 1.31),
    "3b": (3_085_938_688, 3.09, 2.77),
    "7b": (7_615_616_512, 7.61, 6.53),
    "14b": (14_770_033_664, 14.7, 13.1),
    "32b": (32_763_876_352, 32.5, 31.0),
    "72b": (72_706_203_648, 72.7, 70.0),
}


@pytest.mark.parametrize("size", PUBLISHED_SIZES)
def test_published_parameter_counts(size):
    config = PUBLISHED[size]
    exact, total, inner = PUBLISHED_SIZES[size]
    assert config.num_parameters() == config.num_active_parameters() == exact
    assert config.num_parameters() / 1e9 == pytest.approx(total, rel=0.01)
    assert config.num_non_embedding_parameters() / 1e9 == pytest.approx(inner, rel=0.01)


def test_public_moe_anchors():
    """Qwen1.5-MoE-A2.7B: 14.3B in all, 2.7B active. Qwen2-57B-A14B: 57.41B in all, 14B active."""
    small = ModelConfig(
        vocab_size=151936, hidden_size=2048, intermediate_size=5632, num_hidden_layers=24, num_attention_heads=16,
        num_key_value_heads=16, moe=MoEConfig(num_experts=60, num_experts_per_tok=4, moe_intermediate_size=1408,
        shared_expert_intermediate_size=5632),
    )  # fmt: skip
    large = ModelConfig(
        vocab_size=151936, hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28,
        num_key_value_heads=4, moe=MoEConfig(num_experts=64, num_experts_per_tok=8, moe_intermediate_size=2560,
        shared_expert_intermediate_size=20480),
    )  # fmt: skip
    assert small.num_parameters() == 14_315_784_192
    assert small.num_active_parameters() / 1e9 == pytest.approx(2.7, abs=0.05)
    assert round(large.num_parameters() / 1e9, 2) == 57.41
    assert large.num_active_parameters() / 1e9 == pytest.approx(14.2, abs=0.1)


def test_flops_by_hand():
    config = make_config(4, 2, tie_word_embeddings=True)
    matrices = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 72) + 200 * 32
    attention = 2 * (2 * 32 * 100 / 2)  # QK and PV in both layers, half the keys on average
    small = config.num_parameters() - matrices  # norms and biases, counted with the matrices
    assert config.forward_flops_per_token(100) == 2 * (matrices + attention + small)
    assert config.training_flops_per_token(100) == 3 * config.forward_flops_per_token(100)
    untied = config.model_copy(update={"tie_word_embeddings": False})
    assert untied.forward_flops_per_token(100) == config.forward_flops_per_token(100)


def test_impossible_shapes_are_refused():
    with pytest.raises(ValidationError, match="num_key_value_heads 3"):
        make_config(4, 3)
    with pytest.raises(ValidationError, match="local_size 8 must be below chunk_size 8"):
        DualChunkConfig(chunk_size=8, local_size=8)
    with pytest.raises(ValidationError, match="exceeds num_experts"):
        MoEConfig(num_experts=2, num_experts_per_tok=3, moe_intermediate_size=8, shared_expert_intermediate_size=8)


def test_needs_no_torch():
    code = "import sys, model.hf_config; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
