"""The Qwen2.5 decoder (arXiv 2412.15115, section 2): embeddings, pre-norm layers of grouped-query attention and
SwiGLU, final norm, output matrix.

Parameters carry the names of the published checkpoints. Shapes in comments: B batch, T tokens, S keys seen
(cache included), H hidden_size, N query heads, K key-value heads, D head_dim, V vocab_size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.cache import KVCache
from model.config import ModelConfig
from model.rope import attention_factor, inverse_frequencies, rotate, rotation

Rotation = tuple[Tensor, Tensor]


class RMSNorm(nn.Module):
    """x / rms(x) * weight (arXiv 1910.07467)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class Attention(nn.Module):
    """Grouped-query attention with a bias on Q, K and V (arXiv 2305.13245)."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.heads, self.key_value_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = config.head_dim
        key_value = self.key_value_heads * self.head_dim
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, key_value)
        self.v_proj = nn.Linear(config.hidden_size, key_value)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor, turn: Rotation, mask: Tensor | None, cache: KVCache | None) -> Tensor:
        batch, tokens, hidden = x.shape
        query = self.q_proj(x).view(batch, tokens, self.heads, self.head_dim)
        key = self.k_proj(x).view(batch, tokens, self.key_value_heads, self.head_dim)
        value = self.v_proj(x).view(batch, tokens, self.key_value_heads, self.head_dim)
        query, key = rotate(query, *turn).transpose(1, 2), rotate(key, *turn).transpose(1, 2)
        value = value.transpose(1, 2)  # (B, K, T, D)
        if cache is not None:
            key, value = cache.append(self.layer, key, value)
        output = attend(query, key, value, mask)  # (B, N, T, D)
        return self.o_proj(output.transpose(1, 2).reshape(batch, tokens, hidden))


class FeedForward(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)) (arXiv 2002.05202)."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """One pre-norm residual layer."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        self.self_attn = Attention(config, index)
        self.mlp = FeedForward(config.hidden_size, config.intermediate_size)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, turn: Rotation, mask: Tensor | None, cache: KVCache | None) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), turn, mask, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    """What stands under ``model.`` in a checkpoint."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, index) for index in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Transformer(nn.Module):
    """The causal language model. ``forward`` gives hidden states; ``model.loss`` turns them into losses
    without ever holding all logits."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.frequencies: Tensor
        self.register_buffer("frequencies", torch.empty(config.head_dim // 2), persistent=False)
        self.reset_rotation()

    def reset_rotation(self, device: torch.device | str | None = None) -> None:
        """Compute what no checkpoint holds."""
        self.frequencies = inverse_frequencies(self.config).to(device or self.frequencies.device)

    def init_weights(self, seed: int) -> "Transformer":
        """Normal(0, initializer_range) matrices, zero biases, unit norms; the same for the same seed."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.dim() >= 2:
                    parameter.normal_(0.0, self.config.initializer_range, generator=generator)
                elif name.endswith("norm.weight"):
                    parameter.fill_(1.0)
                else:
                    parameter.zero_()
        return self

    @property
    def output_weight(self) -> Tensor:
        """(V, H) matrix of the output layer."""
        tied = self.config.tie_word_embeddings
        return self.model.embed_tokens.weight if tied else self.lm_head.weight

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., H) -> (..., V)."""
        return F.linear(hidden, self.output_weight)

    def forward(
        self, input_ids: Tensor, *, position_ids: Tensor | None = None, document_ids: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:  # fmt: skip
        """Hidden states (B, T, H) after the final norm.

        ``input_ids`` (B, T). ``document_ids`` (B, T): attention stays between equal ids, -1 marks padding, and
        positions restart with each document unless ``position_ids`` (B, T) says otherwise. ``cache``: the
        tokens follow those already in it.
        """
        tokens = input_ids.shape[1]
        mask = None
        if cache is not None:
            mask = cache.mask(tokens)
            position_ids = cache.positions(tokens) if position_ids is None else position_ids
        elif document_ids is not None:
            mask = document_mask(document_ids)
            position_ids = document_positions(document_ids) if position_ids is None else position_ids
        elif position_ids is None:
            position_ids = torch.arange(tokens, device=input_ids.device)[None]
        cos, sin = rotation(position_ids, self.frequencies, attention_factor(self.config))
        x = self.model.embed_tokens(input_ids)
        turn = cos[:, :, None].to(x.dtype), sin[:, :, None].to(x.dtype)  # (B or 1, T, 1, D / 2)
        for layer in self.model.layers:
            x = layer(x, turn, mask, cache)
        if cache is not None:
            cache.advance(tokens)
        return self.model.norm(x)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(query key^T / sqrt(D)) value, causal where there is no mask: (B, N, T, D), 2 x (B, K, S, D) and
    (B, 1, T, S) bool -> (B, N, T, D)."""
    batch, heads, tokens, size = query.shape
    if tokens == 1:  # decoding: the query heads of a group take the place of the tokens, no key is repeated
        grouped = query.view(batch, key.shape[1], -1, size)
        return F.scaled_dot_product_attention(grouped, key, value, attn_mask=mask).view(query.shape)
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, enable_gqa=heads != key.shape[1]
    )


def document_mask(document_ids: Tensor) -> Tensor:
    """Causal attention inside equal ids: (B, T) -> (B, 1, T, T) bool. Padding (-1) sees padding: an empty
    row of a softmax would be NaN."""
    same = document_ids[:, :, None] == document_ids[:, None, :]
    return same.tril_()[:, None]


def document_positions(document_ids: Tensor) -> Tensor:
    """Positions (B, T) that restart at 0 wherever the id changes."""
    index = torch.arange(document_ids.shape[1], device=document_ids.device).expand_as(document_ids)
    first = torch.ones_like(document_ids, dtype=torch.bool)
    first[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
    return index - torch.where(first, index, 0).cummax(dim=1).values
