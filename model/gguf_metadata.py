"""Config and tokenizer as the metadata of a GGUF file, both ways."""

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from gguf import GGUFReader, GGUFWriter, RopeScalingType, TokenType
from tokenizers import models

from model.byte_level import CUTTERS, QWEN, backend, cutter_of
from model.chat_format import chat_format
from model.config import ModelConfig, ModelFormatError, MoEConfig, RopeScaling
from model.gguf_names import ARCHITECTURES
from model.tokenizer import CONTROL_TOKENS, Tokenizer
from model.tokenizer_folder import assemble


class Metadata:
    """The key-value pairs of one file; ``arch`` in a key stands for its architecture."""

    def __init__(self, reader: GGUFReader, origin: str) -> None:
        self._reader, self.origin = reader, origin
        self.arch = str(self.get("general.architecture"))
        if self.arch not in ARCHITECTURES:
            raise ModelFormatError(f"{origin}: architecture {self.arch!r} is none of {', '.join(ARCHITECTURES)}")

    def get(self, key: str, default: Any = None) -> Any:
        """The value of ``key``, as Python's own types."""
        field = self._reader.get_field(key.replace("{arch}", getattr(self, "arch", "")))
        return default if field is None else field.contents()

    def number(self, key: str, default: float | None = None) -> Any:
        """One number, a float32 as the decimal that was rounded to it; ModelFormatError where it is missing."""
        value = self.get(f"{{arch}}.{key}", default)
        if isinstance(value, list) or value is None:
            problem = "is missing" if value is None else "differs from layer to layer, which is not supported"
            raise ModelFormatError(f"{self.origin}: {self.arch}.{key} {problem}")
        return float(str(np.float32(value))) if isinstance(value, float) else value


def config_from_gguf(meta: Metadata, rows: int, tied: bool) -> ModelConfig:
    """``rows`` of the embeddings, which a file need not tell. Raises ModelFormatError for what has no counterpart."""
    heads, hidden = meta.number("attention.head_count"), meta.number("embedding_length")
    experts = meta.number("expert_count", 0)
    if experts and meta.arch == "llama":
        raise ModelFormatError(f"{meta.origin}: experts in Llama's architecture are not supported")
    for key in ("rope.dimension_count", "attention.key_length", "attention.value_length"):
        if meta.number(key, hidden // heads) * heads != hidden:
            raise ModelFormatError(f"{meta.origin}: {meta.arch}.{key} is not embedding_length / head_count")
    if meta.get("{arch}.attention.sliding_window"):
        raise ModelFormatError(f"{meta.origin}: sliding windows are not supported")
    fields = {
        "vocab_size": rows,
        "hidden_size": hidden,
        "intermediate_size": meta.number("feed_forward_length"),
        "num_hidden_layers": meta.number("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": meta.number("attention.head_count_kv", heads),
        "max_position_embeddings": meta.number("context_length"),
        "rope_theta": meta.number("rope.freq_base", 10_000.0),
        "rms_norm_eps": meta.number("attention.layer_norm_rms_epsilon"),
        "tie_word_embeddings": tied,
        "rope_scaling": _rope_scaling(meta),
    }
    if experts:
        fields["moe"] = MoEConfig(
            num_experts=experts,
            num_experts_per_tok=meta.number("expert_used_count"),
            moe_intermediate_size=meta.number("expert_feed_forward_length"),
            shared_expert_intermediate_size=meta.number("expert_shared_feed_forward_length"),
            norm_topk_prob=bool(meta.number("expert_weights_norm", 0)),
        )
    try:
        return ModelConfig.model_validate(fields)
    except ValueError as error:
        raise ModelFormatError(f"{meta.origin}: {error}") from error


def _rope_scaling(meta: Metadata) -> RopeScaling | None:
    kind = meta.get("{arch}.rope.scaling.type", "none")
    if kind == "none":
        return None
    if kind != "yarn":
        raise ModelFormatError(f"{meta.origin}: rope scaling {kind!r} is not 'none' or 'yarn'")
    factor = meta.number("rope.scaling.factor")
    share = meta.number("rope.scaling.attn_factor", 1.0)
    return RopeScaling(
        factor=factor,
        original_max_position_embeddings=meta.number("rope.scaling.original_context_length"),
        beta_fast=meta.number("rope.scaling.yarn_beta_fast", 32.0),
        beta_slow=meta.number("rope.scaling.yarn_beta_slow", 1.0),
        attention_factor=None if share == 1.0 else share * _usual_attention_factor(factor),
    )


def _usual_attention_factor(factor: float) -> float:
    return 0.1 * math.log(factor) + 1.0


def tokenizer_from_gguf(meta: Metadata) -> Tokenizer | None:
    """The vocabulary of the file; None where it has none. Raises ModelFormatError where it is not byte-level BPE."""
    kind = meta.get("tokenizer.ggml.model")
    if kind in (None, "none"):
        return None
    if kind != "gpt2":
        raise ModelFormatError(
            f"{meta.origin}: tokenizer {kind!r} is not byte-level BPE ('gpt2'), which alone is supported"
        )
    cutter = meta.get("tokenizer.ggml.pre", QWEN if meta.arch.startswith("qwen2") else "default")
    if cutter not in CUTTERS:
        raise ModelFormatError(f"{meta.origin}: tokenizer.ggml.pre {cutter!r} is none of {', '.join(CUTTERS)}")
    tokens: list[str] = meta.get("tokenizer.ggml.tokens", [])
    if meta.get("tokenizer.ggml.add_bos_token"):
        start = tokens[meta.get("tokenizer.ggml.bos_token_id", 0)]
        raise ModelFormatError(
            f"{meta.origin}: puts {start} into every text; a tokenizer that adds tokens is not supported"
        )
    types = meta.get("tokenizer.ggml.token_type", [])
    merges = [tuple(merge.split(" ")) for merge in meta.get("tokenizer.ggml.merges", [])]
    if not tokens or len(types) != len(tokens) or any(len(pair) != 2 for pair in merges):
        raise ModelFormatError(f"{meta.origin}: the tokenizer's tokens, token types and merges do not belong together")
    regular: dict[str, int] = {}
    added: dict[str, tuple[int, bool]] = {}
    for token, (name, type_) in enumerate(zip(tokens, types, strict=True)):
        if type_ == TokenType.NORMAL and name not in CONTROL_TOKENS:
            regular[name] = token
        elif type_ in (TokenType.CONTROL, TokenType.UNKNOWN, TokenType.USER_DEFINED, TokenType.NORMAL):
            added[name] = (token, type_ in (TokenType.CONTROL, TokenType.UNKNOWN))
        elif type_ != TokenType.UNUSED:
            raise ModelFormatError(
                f"{meta.origin}: token {name!r} stands for a byte, which byte-level BPE does not need"
            )
    # A vocabulary has no holes: control tokens in front of regular ones are listed, where no merge leads to them.
    last = max(regular.values())
    listed = regular | {name: token for name, (token, _) in added.items() if token < last}
    eos = meta.get("tokenizer.ggml.eos_token_id")
    return assemble(
        backend(models.BPE(vocab=listed, merges=merges), cutter),
        added,
        eos="" if eos is None else tokens[eos],
        chat=chat_format(meta.get("tokenizer.chat_template")),
        origin=meta.origin,
    )


# ---- writing --------------------------------------------------------------------------------------------


def architecture_of(config: ModelConfig, origin: str) -> str:
    """``qwen2`` or ``qwen2moe``; ModelFormatError for what the readers of such files would compute differently."""
    if config.dual_chunk_attention:
        raise ModelFormatError(f"{origin}: GGUF has no dual chunk attention (dual_chunk_attention_config)")
    if config.moe and config.moe.norm_topk_prob:
        raise ModelFormatError(f"{origin}: GGUF's qwen2moe does not rescale the chosen experts (norm_topk_prob)")
    return "qwen2moe" if config.moe else "qwen2"


def write_config(writer: GGUFWriter, config: ModelConfig) -> None:
    """The shape of the model."""
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if scaling := config.rope_scaling:
        writer.add_rope_scaling_type(RopeScalingType.YARN)
        writer.add_rope_scaling_factor(scaling.factor)
        writer.add_rope_scaling_orig_ctx_len(scaling.original_max_position_embeddings)
        writer.add_rope_scaling_yarn_beta_fast(scaling.beta_fast)
        writer.add_rope_scaling_yarn_beta_slow(scaling.beta_slow)
        if scaling.attention_factor is not None:
            writer.add_rope_scaling_attn_factors(scaling.attention_factor / _usual_attention_factor(scaling.factor))
    if moe := config.moe:
        writer.add_expert_count(moe.num_experts)
        writer.add_expert_used_count(moe.num_experts_per_tok)
        writer.add_expert_feed_forward_length(moe.moe_intermediate_size)
        writer.add_expert_shared_feed_forward_length(moe.shared_expert_intermediate_size)


def write_tokenizer(writer: GGUFWriter, tokenizer: Tokenizer, rows: int, origin: str) -> None:
    """The vocabulary, padded to the ``rows`` of the embeddings with tokens that nothing produces."""
    cutter = cutter_of(tokenizer._backend)
    if cutter is None:
        raise ModelFormatError(f"{origin}: GGUF has no name for how this tokenizer cuts text into words")
    names = {token: name for name, token in tokenizer._backend.get_vocab(with_added_tokens=False).items()}
    names |= {token: name for name, token in tokenizer.control.items()}
    type_of: Callable[[int], TokenType] = lambda token: (  # noqa: E731 (four cases, one line each)
        TokenType.UNUSED if token not in names
        else TokenType.CONTROL if names[token] in tokenizer.hidden
        else TokenType.USER_DEFINED if names[token] in tokenizer.control
        else TokenType.NORMAL
    )  # fmt: skip
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(cutter)
    writer.add_token_list([names.get(token, f"[PAD{token}]") for token in range(rows)])
    writer.add_token_types([type_of(token) for token in range(rows)])
    merges = json.loads(tokenizer._backend.to_str())["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_bos_token_id(tokenizer.eos_id)
    writer.add_eos_token_id(tokenizer.im_end_id)
    writer.add_pad_token_id(tokenizer.eos_id)
    writer.add_add_bos_token(False)
    writer.add_chat_template(tokenizer.chat.template)
