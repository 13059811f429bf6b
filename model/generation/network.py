"""The decoder as generation runs it: many texts' tokens in one flat batch, weights prepared once, keys in pages.

It computes what ``model.transformer`` computes (the tests hold them together) with fewer and cheaper operations: one
product for Q, K and V, activations and residuals inside the products, rotation as one complex product. For that the
rows of Q and K are reordered so that rotated pairs are neighbours; scores, being sums over a head, do not notice. The
weights of a norm are multiplied into the matrices that read from it.

Shapes: T tokens of all texts, H hidden_size, N query heads, K key-value heads, D head_dim, V vocabulary rows.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from model.config import ModelConfig
from model.feed_forward import FeedForward
from model.generation.layout import FlatBatch, Stretch, lay_out
from model.generation.products import Product, can_pack
from model.moe import MoE
from model.norm import RMSNorm
from model.rope import attention_factor, rotation
from model.transformer import Layer, Transformer

# Positions whose rotations are computed together, always at the same places, so that their bits are too.
_TABLE_BLOCK = 2048


class Network:
    """The weights of a ``Transformer`` as of now; a copy of them where they are packed."""

    def __init__(self, model: Transformer, *, pack: bool = True) -> None:
        self.config: ModelConfig = model.config
        self.embedding = model.model.embed_tokens.weight.detach()
        self.dtype, self.device = self.embedding.dtype, self.embedding.device
        self.layers = [_Layer(layer, model.config, pack) for layer in model.layers]
        self.norm = _Norm(model.model.norm, pack)
        self.output = Product(self.norm.into(model.output_weight), pack=pack)
        plan = model.sparse_prefill
        self.reader = None if plan is None else plan.reader(model)
        """How long prompts are read sparsely, from ``sparse_from`` tokens on."""
        self.sparse_from = None if plan is None else plan.min_tokens
        self._frequencies = model.frequencies
        self._table = torch.empty(0, 1, self.config.head_dim // 2, dtype=torch.complex64, device=self.device)

    def lay_out(self, stretches: Sequence[Stretch]) -> FlatBatch:
        return lay_out(stretches, self)

    def __call__(self, batch: FlatBatch, memory: Tensor, wanted: Tensor) -> Tensor:
        """Hidden states after the final norm of the tokens ``wanted`` (R,) -> (R, H), as ``logits`` and ``whole`` take
        them; keys and values of all tokens go into ``memory`` (layers, pages, PAGE, 2 K, D)."""
        config, attention = self.config, batch.attention
        heads, size = config.num_attention_heads, config.head_dim
        turned = heads + config.num_key_value_heads
        turn = self.turns(batch.turns)
        x = F.embedding(batch.tokens, self.embedding)
        for index, (layer, pages) in enumerate(zip(self.layers, memory, strict=True)):
            mixed = layer.query_key_value(layer.attention_norm(x))
            mixed = mixed.view(x.shape[0], -1, size)  # (T, N + 2 K, D)
            raw = mixed[:, :heads].clone() if attention.chunked else None
            _rotate(mixed[:, :turned], turn)
            pages.flatten(0, 1).index_copy_(0, batch.slots, mixed[:, heads:])
            seen = attention(index, mixed[:, :heads], pages, raw, self._turned)
            x = layer.attention_output.plus(seen, x)
            x = layer.feed_forward(layer.feed_forward_norm(x), x)
        return self.norm(x[wanted])

    def logits(self, hidden: Tensor) -> Tensor:
        """(R, H) -> (R, V) float32."""
        return self.output(hidden).float()

    def whole(self, hidden: Tensor) -> Tensor:
        """(..., H) as the model has them: times the norm's weights, which may stand in the output matrix instead."""
        return self.norm.weighted(hidden)

    def turns(self, positions: Tensor) -> Tensor:
        """(T,) -> (T, 1, D / 2) complex64: what rotates a pair at each position."""
        last = int(positions.max())
        while last >= self._table.shape[0]:
            begin = self._table.shape[0]
            block = torch.arange(begin, begin + _TABLE_BLOCK, device=self.device)
            cos, sin = rotation(block, self._frequencies, attention_factor(self.config))
            half = self.config.head_dim // 2
            new = torch.complex(cos[:, :half], sin[:, half:])[:, None]
            self._table = torch.cat((self._table, new))
        return self._table.index_select(0, positions)

    def _turned(self, query: Tensor, positions: Tensor) -> Tensor:
        """A rotated copy of ``query`` (T, N, D)."""
        query = query.clone()
        _rotate(query, self.turns(positions))
        return query


def _rotate(x: Tensor, turn: Tensor) -> None:
    """Turn neighbouring pairs of ``x`` (T, heads, D) in place."""
    pairs = x.unflatten(-1, (-1, 2))
    if x.dtype == torch.float32:
        torch.view_as_complex(pairs).mul_(turn)
    else:
        pairs.copy_(torch.view_as_real(torch.view_as_complex(pairs.float()) * turn))


class _Layer:
    def __init__(self, layer: Layer, config: ModelConfig, pack: bool) -> None:
        attention = layer.self_attn
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        size = config.head_dim
        self.attention_norm = _Norm(layer.input_layernorm, pack)
        self.feed_forward_norm = _Norm(layer.post_attention_layernorm, pack)
        self.query_key_value = Product(
            self.attention_norm.into(
                torch.cat([_pairs_together(p.weight, size) for p in parts[:2]] + [parts[2].weight])
            ),
            torch.cat([_pairs_together(p.bias, size) for p in parts[:2]] + [parts[2].bias]),
            pack=pack,
        )
        self.attention_output = Product(attention.o_proj.weight, pack=pack)
        mlp, norm = layer.mlp, self.feed_forward_norm
        self.feed_forward = _Experts(mlp, norm, pack) if isinstance(mlp, MoE) else _FeedForward.of(mlp, norm, pack)


class _Norm:
    """RMSNorm, its weights left to the matrices after it where these are copied anyway."""

    def __init__(self, module: RMSNorm, pack: bool) -> None:
        self._own = module.weight.detach()
        self._moved = pack and can_pack(self._own)
        self._eps = module.eps
        self._eps_tensor = torch.tensor(module.eps, dtype=self._own.dtype, device=self._own.device)

    def into(self, weight: Tensor) -> Tensor:
        """The matrix (N, H) that reads the norm's result."""
        return weight.detach() * self._own if self._moved else weight.detach()

    def weighted(self, x: Tensor) -> Tensor:
        """The norm's own result, of what calling it gave."""
        return x * self._own if self._moved else x

    def __call__(self, x: Tensor) -> Tensor:
        if not self._moved:
            return F.rms_norm(x, self._own.shape, self._own, self._eps)
        # half the time of the framework's own at the few rows of a decode step
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return x * torch.addcmul(self._eps_tensor, norm, norm, value=1 / x.shape[-1]).rsqrt_()


class _FeedForward:
    """down(silu(gate(x)) * up(x)) + residual, in three operations."""

    def __init__(self, gate: Tensor, up: Tensor, down: Tensor, pack: bool) -> None:
        self.gate, self.up, self.down = (Product(weight, pack=pack) for weight in (gate, up, down))

    @classmethod
    def of(cls, module: FeedForward, norm: _Norm, pack: bool) -> "_FeedForward":
        gate, up = norm.into(module.gate_proj.weight), norm.into(module.up_proj.weight)
        return cls(gate, up, module.down_proj.weight, pack)

    def inner(self, x: Tensor) -> Tensor:
        return self.up.times(x, self.gate.silu(x))

    def __call__(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.down.plus(self.inner(x), residual)


class _Experts:
    """``model.moe.MoE`` without what only training looks at."""

    def __init__(self, module: MoE, norm: _Norm, pack: bool) -> None:
        self.chosen, self.normalise = module.chosen, module.normalise
        self.router = Product(norm.into(module.gate.weight), pack=pack)
        experts = module.experts
        weights = zip(experts.gate_proj, experts.up_proj, experts.down_proj, strict=True)
        self.experts = [_FeedForward(norm.into(gate), norm.into(up), down, pack) for gate, up, down in weights]
        self.shared = _FeedForward.of(module.shared_expert, norm, pack)
        self.shared_gate = Product(norm.into(module.shared_expert_gate.weight), pack=pack)

    def __call__(self, x: Tensor, residual: Tensor) -> Tensor:
        weights, experts = self.router(x).float().softmax(dim=-1).topk(self.chosen, dim=-1)  # (T, k)
        if self.normalise:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        order = experts.flatten().argsort(stable=True)
        source = order // self.chosen
        counts = experts.flatten().bincount(minlength=len(self.experts)).tolist()
        outputs = [
            expert.down(expert.inner(rows))
            for expert, rows in zip(self.experts, x[source].split(counts), strict=True)
            if rows.shape[0]
        ]
        weighted = torch.cat(outputs) * weights.flatten()[order, None].to(x.dtype)
        # sorted by expert: a token's experts are added in the same order whatever the batch
        routed = torch.zeros_like(x).index_add_(0, source, weighted)
        shared = self.shared_gate.sigmoid(x) * self.shared.down(self.shared.inner(x))
        return routed.add_(shared).add_(residual)


def _pairs_together(weight: Tensor, head_dim: int) -> Tensor:
    """Rows (heads * D, ...) reordered so that the pair (i, i + D / 2) of each head lies at (2 i, 2 i + 1)."""
    return weight.detach().unflatten(0, (-1, 2, head_dim // 2)).transpose(1, 2).flatten(0, 2)
