"""GGUF files of other makers: computed as ``transformers`` does, whole or in parts, refused by name."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from model.checkpoint import load_model
from model.config import ModelFormatError
from model.conversion import convert, open_source
from model.gguf_names import to_gguf
from model.gguf_source import GGUFSource

LLAMA = LlamaConfig(
    vocab_size=128, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, rope_theta=50_000.0, rms_norm_eps=1e-5, initializer_range=0.15, attention_bias=False,
    max_position_embeddings=512,
)  # fmt: skip


def neighbours(matrix: torch.Tensor, heads: int) -> torch.Tensor:
    """The order in which llama.cpp keeps Q and K of Llamas: the halves of a head interleaved."""
    halves = matrix.reshape(heads, 2, -1, matrix.shape[-1])
    return torch.stack([halves[:, 0], halves[:, 1]], dim=2).reshape(matrix.shape)


def write_llama(path: Path, theirs: LlamaForCausalLM, *, parts: int = 1, extra=None, **changes) -> Path:
    """A file as llama.cpp's converter writes it; ``changes`` replace metadata, None leaves it out."""
    values = {
        "context_length": 512, "embedding_length": 64, "block_count": 2, "feed_forward_length": 96,
        "vocab_size": 128, "attention.head_count": 4, "attention.head_count_kv": 2, "rope.freq_base": 50_000.0,
        "attention.layer_norm_rms_epsilon": 1e-5, "rope.dimension_count": 16,
    } | changes  # fmt: skip
    size = 60_000 if parts > 1 else 0
    writer = gguf.GGUFWriter(path, "llama", split_max_size=size)
    for key, value in values.items():
        if value is not None:
            kind = {int: "uint32", float: "float32", str: "string", list: "array"}[type(value)]
            getattr(writer, f"add_{kind}")(f"llama.{key}", value)
    for name, value in theirs.state_dict().items():
        if "q_proj" in name or "k_proj" in name:
            value = neighbours(value, 4 if "q_proj" in name else 2)
        writer.add_tensor(to_gguf(name).name, value.numpy())
    for name, value in (extra or {}).items():
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def llama() -> LlamaForCausalLM:
    torch.manual_seed(3)
    return LlamaForCausalLM(LLAMA).eval()


@pytest.mark.parametrize("piece", [32 * 2**20, 5_000], ids=["whole", "in pieces"])
def test_a_llama_computes_what_it_did(llama, piece, tmp_path, monkeypatch):
    monkeypatch.setattr("model.gguf_source.PIECE", piece)
    convert(open_source(write_llama(tmp_path / "model.gguf", llama)), tmp_path / "model")
    ours, ids = load_model(tmp_path / "model"), torch.arange(40)[None]
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", dtype=torch.float32)
    with torch.no_grad():
        expected = llama(ids).logits
        torch.testing.assert_close(ours.logits(ours(ids)), expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(theirs(ids).logits, expected, atol=1e-5, rtol=1e-4)


def test_a_file_in_parts_is_one_model(llama, tmp_path):
    write_llama(tmp_path / "model.gguf", llama, parts=2)
    parts = sorted(tmp_path.glob("*.gguf"))
    assert len(parts) > 2
    convert(open_source(parts[0]), tmp_path / "model")
    own = load_model(tmp_path / "model").state_dict()
    assert all(torch.equal(value, own[name]) for name, value in llama.state_dict().items())
    parts[1].unlink()
    with pytest.raises(ModelFormatError, match=rf"{parts[1].name}: this part of the model is missing"):
        open_source(parts[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention.head_count": None}, r"llama\.attention\.head_count is missing"),
        ({"attention.head_count_kv": [2, 1]}, r"llama\.attention\.head_count_kv differs from layer to layer"),
        ({"attention.head_count_kv": 3}, "num_attention_heads 4 is not a multiple of num_key_value_heads 3"),
        ({"expert_count": 8}, "experts in Llama's architecture"),
        ({"rope.dimension_count": 8}, r"llama\.rope\.dimension_count is not embedding_length / head_count"),
        ({"attention.sliding_window": 128}, "sliding windows"),
        ({"rope.scaling.type": "linear"}, "rope scaling 'linear'"),
        ({"feed_forward_length": 100}, r"mlp\.gate_proj\.weight has shape \(96, 64\), the config says \(100, 64\)"),
        ({"extra": {"rope_freqs.weight": np.ones(8, np.float32)}}, r"rope_freqs\.weight"),
        (
            {"extra": {"blk.0.attn_sinks.weight": np.ones(8, np.float32)}},
            r"unexpected tensor blk\.0\.attn_sinks\.weight",
        ),
    ],
)
def test_what_cannot_be_represented_is_refused(llama, changes, message, tmp_path):
    with pytest.raises(ModelFormatError, match=message):
        convert(open_source(write_llama(tmp_path / "model.gguf", llama, **changes)), tmp_path / "model")


def test_another_architecture_is_named(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "gemma3")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelFormatError, match="architecture 'gemma3' is none of llama, qwen2, qwen2moe"):
        GGUFSource(tmp_path / "model.gguf")


@pytest.mark.parametrize("kept", [0, 3, 20, 500, -40])
def test_a_truncated_file_is_named(llama, kept, tmp_path):
    file = write_llama(tmp_path / "model.gguf", llama)
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(ModelFormatError, match=r"model\.gguf: not a whole GGUF file"):
        open_source(file)


def test_nan_is_named(llama, tmp_path):
    bad = {"blk.0.attn_q.bias": np.full(64, np.nan, np.float32)}
    rest = {f"blk.{i}.attn_{p}.bias": np.zeros(64 if p == "q" else 32, np.float32) for i in (0, 1) for p in "qkv"}
    with pytest.raises(ModelFormatError, match=r"model\.layers\.0\.self_attn\.q_proj\.bias holds NaN"):
        convert(open_source(write_llama(tmp_path / "model.gguf", llama, extra=rest | bad)), tmp_path / "model")
