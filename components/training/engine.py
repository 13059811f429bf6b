"""What carries out an update: the seam between the training loop and plain torch or DeepSpeed.

The loop decides what is computed (batches, schedule, when to checkpoint, what to do when something goes wrong); an
engine decides where: in this process, or over many that share weights, gradients and optimizer state.
"""

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from components.stage import Layout
from components.training.config import TrainingConfig
from components.training.optimizer import MuonWithAdamW, build_optimizer
from components.training.preparation import cast_parameters, prepared

Optimizer = torch.optim.Optimizer | MuonWithAdamW
Objective = Callable[[Any, Any], tuple[Tensor, Mapping[str, float]]]
State = dict[str, Any]


class Engine(Protocol):
    """One update at a time. Every method but ``forward`` is collective: all ranks call it, in the same order."""

    rank: int
    world_size: int

    def forward(self, objective: Objective, batch: Any) -> tuple[Tensor, Mapping[str, float]]:
        """The objective's loss and metrics of a micro-batch of this rank."""
        ...

    def backward(self, loss: Tensor, weight: float, *, last: bool) -> None:
        """Add the gradient of ``weight * loss`` to that of the whole batch."""
        ...

    def update(self, learning_rate: float, accept: Callable[[float], bool]) -> float:
        """Clip and step if ``accept`` (called with the norm of the whole gradient) says so, else drop the gradient.

        Returns the norm before clipping; infinite or NaN where the gradient is not finite.
        """
        ...

    def sum(self, values: list[float]) -> list[float]:
        """Each value summed over the ranks."""
        ...

    def refresh(self) -> None:
        """Bring the caller's model up to date."""
        ...

    def state(self) -> State:
        """``model`` and ``optimizer`` as this rank's part of a checkpoint: whole tensors, by parameter name."""
        ...

    def load(self, state: State) -> None:
        """Take over the merged state of any number of ranks of any engine."""
        ...

    def close(self) -> None:
        """Refresh the caller's model for the last time and let go of it."""
        ...


class TorchEngine:
    """One process. Weights are float32; for bfloat16 a replica computes the gradients and the originals step."""

    rank, world_size = 0, 1

    def __init__(self, model: nn.Module, config: TrainingConfig, optimizer: Optimizer | None = None) -> None:
        self.model, self.config = model, config
        self.optimizer = optimizer or build_optimizer(model, config)
        self.module = model if config.precision == "float32" else cast_parameters(copy.deepcopy(model), torch.bfloat16)
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.measure = False
        self.measured: dict[str, float] = {}
        self._names = {parameter: name for name, parameter in model.named_parameters()}
        self._groups = layer_groups([self._names[parameter] for parameter in self.parameters])
        self._undo = prepared(self.module, recompute=config.recompute, compiled=config.compile)
        self.module.train()

    def forward(self, objective: Objective, batch: Any) -> tuple[Tensor, Mapping[str, float]]:
        return objective(self.module, batch)

    def backward(self, loss: Tensor, weight: float, *, last: bool) -> None:
        # A quotient, not a product with the weight: the two differ in the last bit.
        (loss / (1 / weight) if weight else loss * 0.0).backward()

    def update(self, learning_rate: float, accept: Callable[[float], bool]) -> float:
        if self.module is not self.model:
            self._take_gradients()
        held = [parameter for parameter in self.parameters if parameter.grad is not None]
        gradients = [parameter.grad for parameter in held if parameter.grad is not None]
        # What clip_grad_norm_ computes, with the norms of the parts kept.
        norms = torch.stack(torch._foreach_norm(gradients)) if gradients else torch.zeros(1)
        total = torch.linalg.vector_norm(norms)
        norm = float(total)
        accepted = accept(norm)
        if accepted:
            before = self._copied(held) if self.measure else []
            nn.utils.clip_grads_with_norm_(held, self.config.max_grad_norm, total)
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate
            self.optimizer.step()
            if self.measure:
                self._measure(held, norms, before)
        self.optimizer.zero_grad(set_to_none=True)
        if self.module is not self.model:
            self.module.zero_grad(set_to_none=True)
            self._give_weights()
        return norm

    def sum(self, values: list[float]) -> list[float]:
        return values

    def refresh(self) -> None:
        pass

    def state(self) -> State:
        optimizer: State
        if type(self.optimizer) is torch.optim.AdamW:
            optimizer = {"adamw": {self._names[p]: dict(kept) for p, kept in self.optimizer.state.items()}}  # type: ignore[index]
        else:
            optimizer = {"whole": self.optimizer.state_dict()}
        return {"model": dict(self.model.state_dict()), "optimizer": optimizer}

    def load(self, state: State) -> None:
        self.model.load_state_dict(state["model"])
        saved = state["optimizer"]
        if "adamw" in saved:
            parameters, device = dict(self.model.named_parameters()), self.parameters[0].device
            self.optimizer.state.clear()  # type: ignore[union-attr]
            for name, kept in saved["adamw"].items():
                moved = {key: value.to(device) for key, value in kept.items()}
                self.optimizer.state[parameters[name]] = moved  # type: ignore[union-attr]
        else:
            self.optimizer.load_state_dict(saved["whole"])
        self._give_weights()

    def close(self) -> None:
        self._undo()

    @staticmethod
    def _copied(held: list[nn.Parameter]) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in held]

    @torch.no_grad()
    def _measure(self, held: list[nn.Parameter], norms: Tensor, before: list[Tensor]) -> None:
        moved = torch.stack(torch._foreach_norm(torch._foreach_sub([p.detach() for p in held], before)))
        self.measured = {}
        for kind, values in (("grad_norm", norms), ("update_norm", moved)):
            squares = dict(zip((self._names[parameter] for parameter in held), values.square().tolist(), strict=True))
            for group, names in self._groups.items():
                self.measured[f"{kind}/{group}"] = math.sqrt(sum(squares.get(name, 0.0) for name in names))

    @torch.no_grad()
    def _take_gradients(self) -> None:
        for ours, theirs in zip(self.model.parameters(), self.module.parameters(), strict=True):
            ours.grad = None if theirs.grad is None else theirs.grad.float()

    @torch.no_grad()
    def _give_weights(self) -> None:
        if self.module is not self.model:
            for ours, theirs in zip(self.model.parameters(), self.module.parameters(), strict=True):
                theirs.copy_(ours)


def layer_groups(names: list[str]) -> dict[str, list[str]]:
    """Parameter names by layer group: ``embed``, ``layer.0`` ..., ``norm``, ``head``; the rest by its first word."""
    groups: dict[str, list[str]] = {}
    for name in names:
        parts = name.split(".")
        if "layers" in parts:
            group = f"layer.{parts[parts.index('layers') + 1]}"
        elif "embed_tokens" in parts:
            group = "embed"
        else:
            group = {"lm_head": "head"}.get(parts[0], parts[-2] if len(parts) > 1 else parts[0])
        groups.setdefault(group, []).append(name)
    return groups


def build_engine(
    model: nn.Module, config: TrainingConfig, layout: Layout, optimizer: Optimizer | None = None
) -> Engine:
    """The engine that ``layout`` names."""
    if layout.engine == "torch":
        return TorchEngine(model, config, optimizer)
    from components.training.deepspeed_engine import DeepSpeedEngine

    return DeepSpeedEngine(model, config, layout, optimizer)


__all__ = ["Engine", "Objective", "Optimizer", "State", "TorchEngine", "build_engine", "layer_groups"]
