"""The Qwen2.5 decoder (arXiv 2412.15115, section 2): embeddings, pre-norm layers of grouped-query attention and
SwiGLU, final norm, output matrix.

Parameters carry the names of the published checkpoints. Shapes in comments: B batch, T tokens, S keys seen
(cache included), H hidden_size, N query heads, K key-value heads, D head_dim, V vocab_size.
"""

from dataclasses import dataclass
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model import dual_chunk
from model.blocked_attention import blocked_attention
from model.cache import KVCache
from model.config import ModelConfig
from model.feed_forward import FeedForward
from model.linear import Linear, linear
from model.moe import MoE, Routing, auxiliary_loss, router_statistics
from model.native_attention import can_attend, native_attention
from model.norm import RMSNorm
from model.partial_attention import Run, runs_of_documents, runs_of_rows
from model.rope import attention_factor, inverse_frequencies, rotate, rotation

Rotation = tuple[Tensor, Tensor]


@dataclass
class Step:
    """What one forward pass tells every layer."""

    turn: Rotation
    """cos and sin for keys, and for queries in plain attention: each (B or 1, T, 1, D)."""
    mask: Tensor | None
    """(B, 1, T, S) bool, or None where attention is plainly causal."""
    cache: KVCache | None = None
    chunks: dual_chunk.Chunks | None = None
    """Set where the text is too long for plain attention."""
    counted: Tensor | None = None
    """(B, T) bool: the tokens that are no padding; None: all."""


class PrefillPlan(Protocol):
    """What a long prompt's attention reads."""

    @property
    def min_tokens(self) -> int:
        """Shorter texts are read as a whole."""

    def reader(self, model: "Transformer") -> dual_chunk.Attend:
        """The attention of one forward pass."""


class Exchange(Protocol):
    """What processes that hold slices of the same texts do around attention (Ulysses, arXiv 2309.14509)."""

    def to_heads(self, x: Tensor) -> Tensor:
        """(B, heads, tokens of the slice, D) -> (B, heads of this process, all tokens, D)."""

    def to_tokens(self, x: Tensor) -> Tensor:
        """The way back."""


class Attention(nn.Module):
    """Grouped-query attention with a bias on Q, K and V (arXiv 2305.13245)."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.heads, self.key_value_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = config.head_dim
        key_value = self.key_value_heads * self.head_dim
        self.q_proj = Linear(config.hidden_size, config.hidden_size)
        self.k_proj = Linear(config.hidden_size, key_value)
        self.v_proj = Linear(config.hidden_size, key_value)
        self.o_proj = Linear(config.hidden_size, config.hidden_size, bias=False)
        self.exchange: Exchange | None = None  # set while processes share sequences; attention is causal then

    def forward(self, x: Tensor, step: Step) -> Tensor:
        batch, tokens, hidden = x.shape
        query = self.q_proj(x).view(batch, tokens, self.heads, self.head_dim)
        key = self.k_proj(x).view(batch, tokens, self.key_value_heads, self.head_dim)
        value = self.v_proj(x).view(batch, tokens, self.key_value_heads, self.head_dim)
        key, value = rotate(key, *step.turn).transpose(1, 2), value.transpose(1, 2)  # (B, K, T, D)
        if step.cache is not None:
            key, value = step.cache.append(self.layer, key, value)
        if self.exchange is not None:
            query = rotate(query, *step.turn).transpose(1, 2)
            query, key, value = (self.exchange.to_heads(part) for part in (query, key, value))
            output = self.exchange.to_tokens(attend(query, key, value, None))  # (B, N, T, D)
        elif step.chunks is None:
            output = attend(rotate(query, *step.turn).transpose(1, 2), key, value, step.mask)  # (B, N, T, D)
        else:
            queries = tuple(rotate(query, *turn).transpose(1, 2) for turn in step.chunks.turns)
            output = dual_chunk.dual_chunk_attention(queries, key, value, step.mask, step.chunks, self.layer)
        return self.o_proj(output.transpose(1, 2).reshape(batch, tokens, hidden))


class Layer(nn.Module):
    """One pre-norm residual layer."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        self.self_attn = Attention(config, index)
        self.mlp: FeedForward | MoE = (
            FeedForward(config.hidden_size, config.intermediate_size) if config.moe is None else MoE(config, config.moe)
        )
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, step: Step) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), step)
        normed = self.post_attention_layernorm(x)
        return x + (self.mlp(normed, step.counted) if isinstance(self.mlp, MoE) else self.mlp(normed))


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
            self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        self.sparse_prefill: PrefillPlan | None = None
        """How long prompts are read (``model.sparse_prefill``); None: all of them."""
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
    def layers(self) -> list[Layer]:
        return cast(list[Layer], list(self.model.layers))

    @property
    def output_weight(self) -> Tensor:
        """(V, H) matrix of the output layer."""
        tied = self.config.tie_word_embeddings
        return self.model.embed_tokens.weight if tied else self.lm_head.weight

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., H) -> (..., V)."""
        return linear(hidden, self.output_weight)

    def forward(
        self, input_ids: Tensor, *, position_ids: Tensor | None = None, document_ids: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:  # fmt: skip
        """Hidden states (B, T, H) after the final norm.

        ``input_ids`` (B, T). ``document_ids`` (B, T): attention stays between equal ids, -1 marks padding, and
        positions restart with each document unless ``position_ids`` (B, T) says otherwise. ``cache``: the
        tokens follow those already in it.
        """
        step = self._step(input_ids, position_ids, document_ids, cache)
        x = self.model.embed_tokens(input_ids)
        for layer in self.layers:
            x = layer(x, step)
        if cache is not None:
            cache.advance(input_ids.shape[1])
        return self.model.norm(x)

    def _step(
        self, input_ids: Tensor, positions: Tensor | None, document_ids: Tensor | None, cache: KVCache | None
    ) -> Step:
        """Positions, mask and rotations of a forward pass."""
        tokens, chunking = input_ids.shape[1], self.config.dual_chunk_attention
        documents = document_ids if cache is None else None
        follow = positions is None and tokens > 1  # positions follow each other in every text
        if positions is None and cache is not None:
            positions = cache.positions(cache.length, cache.length + tokens)
        elif positions is None and documents is not None:
            positions = document_positions(documents)
        elif positions is None:
            positions = torch.arange(tokens, device=input_ids.device)[None]
        longest = 0 if chunking is None and self.sparse_prefill is None else int(positions.max()) + 1
        stretched = chunking is not None and not dual_chunk.is_plain(longest, chunking)
        attend = self._sparse_reader(longest) if follow else None
        runs = self._runs(input_ids, documents, cache) if follow and (stretched or attend is not None) else None
        mask = None
        if runs is None and cache is not None:
            mask = cache.mask(tokens)
        elif runs is None and documents is not None:
            mask = document_mask(documents)
        turned = positions if chunking is None else dual_chunk.key_positions(positions, chunking)
        step = Step(self._turn(turned), mask, cache, counted=None if documents is None else documents != -1)
        if chunking is not None and stretched:
            keys = positions if cache is None else cache.positions(0, cache.length + tokens)
            step.chunks = dual_chunk.Chunks(
                turns=tuple(self._turn(turned) for turned in dual_chunk.query_positions(positions, chunking)),
                query_chunk=positions // chunking.chunk_length,
                key_chunk=keys // chunking.chunk_length,
                scale=dual_chunk.logit_scale(positions, chunking),
                chunk_length=chunking.chunk_length,
                runs=runs,
                attend=attend,
            )
        elif attend is not None:
            step.chunks = dual_chunk.one_chunk(step.turn, positions, runs, attend)
        return step

    def _sparse_reader(self, longest: int) -> dual_chunk.Attend | None:
        """None where a prompt of this length is read densely."""
        plan = self.sparse_prefill
        if plan is None or torch.is_grad_enabled() or longest < plan.min_tokens:
            return None
        return plan.reader(self)

    @staticmethod
    def _runs(input_ids: Tensor, documents: Tensor | None, cache: KVCache | None) -> list[Run]:
        """The texts of this step."""
        batch, tokens = input_ids.shape
        if documents is not None:
            return runs_of_documents(documents)
        starts = [0] * batch if cache is None else cache.start.tolist()
        return runs_of_rows(starts, 0 if cache is None else cache.length, tokens)

    def _turn(self, positions: Tensor) -> Rotation:
        cos, sin = rotation(positions, self.frequencies, attention_factor(self.config))
        dtype = self.output_weight.dtype
        return cos[:, :, None].to(dtype), sin[:, :, None].to(dtype)  # (B or 1, T, 1, D)

    # ---- what an MoE adds -------------------------------------------------------------------------------

    @property
    def auxiliary_loss(self) -> Tensor:
        """Weighted router losses of the last forward pass, to be added to a mean loss; 0 for a dense model."""
        if self.config.moe is None:
            return torch.zeros((), device=self.output_weight.device)
        return auxiliary_loss(self._routings(), self.config.moe)

    def router_statistics(self) -> dict[str, float]:
        """How evenly the last forward pass used its experts; empty for a dense model."""
        return router_statistics(self._routings()) if self.config.moe else {}

    def _routings(self) -> list[Routing]:
        experts = [layer.mlp for layer in self.layers if isinstance(layer.mlp, MoE)]
        routings = [layer.routing for layer in experts if layer.routing is not None]
        if len(routings) < len(experts):
            raise RuntimeError("router losses are known after a forward pass only")
        return routings


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(query key^T / sqrt(D)) value, causal where there is no mask: (B, N, T, D), 2 x (B, K, S, D) and
    (B, 1, T, S) bool -> (B, N, T, D)."""
    batch, heads, tokens, size = query.shape
    if tokens == 1:  # decoding: the query heads of a group take the place of the tokens, no key is repeated
        grouped = query.view(batch, key.shape[1], -1, size)
        return F.scaled_dot_product_attention(grouped, key, value, attn_mask=mask).view(query.shape)
    if query.device.type == "cpu" and query.requires_grad and tokens == key.shape[2]:
        return (native_attention if can_attend(query) else blocked_attention)(query, key, value, mask)
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
