"""Optimizers as every stage uses them: decoupled decay on matrices, none on norms and biases."""

from typing import Any

import torch
from torch import nn

from components.training.config import TrainingConfig
from components.training.muon import Muon


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: matrices decay, vectors (norm weights, biases) do not."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]


def build_adamw(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW (arXiv 1711.05101), fused: one pass over the parameters instead of one an operation."""
    return adamw(parameter_groups(model, config.weight_decay), config)


def build_optimizer(model: nn.Module, config: TrainingConfig) -> "torch.optim.Optimizer | MuonWithAdamW":
    """The optimizer that ``config.optimizer`` names."""
    return MuonWithAdamW(model, config) if config.optimizer == "muon" else build_adamw(model, config)


class MuonWithAdamW:
    """Muon on the hidden matrices, AdamW on embeddings, output matrix, norms and biases.

    One learning rate serves both. On pocket shapes it reaches AdamW's loss with well under half the tokens
    (``benchmarks/optimizers.py``).
    """

    def __init__(self, model: nn.Module, config: TrainingConfig) -> None:
        hidden: list[nn.Parameter] = []
        rest: list[nn.Parameter] = []
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                is_hidden = parameter.ndim == 2 and "embed_tokens" not in name and "lm_head" not in name
                (hidden if is_hidden else rest).append(parameter)
        muon = Muon(hidden, config.learning_rate, config.weight_decay)
        self.parts: list[torch.optim.Optimizer] = [muon, adamw([{"params": rest, "weight_decay": 0.0}], config)]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for part in self.parts for group in part.param_groups]

    def step(self) -> None:
        for part in self.parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none=set_to_none)

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for part, saved in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(saved)


def adamw(groups: list[dict[str, Any]], config: TrainingConfig) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        groups,
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        fused=True,
    )
