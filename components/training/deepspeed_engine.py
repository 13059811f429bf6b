"""The DeepSpeed engine: weights, gradients and optimizer state shared by processes (ZeRO 1 to 3, arXiv 1910.02054).

Started by a launcher that has set RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT (``infra/launching.py``). AdamW is
torch's, so that one process and many differ by rounding alone.
"""

import copy
import os
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn

from components.stage import Layout, StageError
from components.training import communication
from components.training.config import TrainingConfig
from components.training.engine import Objective, State
from components.training.expert_parallel import MOMENTS, SharedExperts
from components.training.optimizer import adamw, parameter_groups
from components.training.preparation import prepared
from components.training.sequence_parallel import parallelise
from model.moe import MoE
from model.transformer import Transformer

PERSISTENT = 100_000
"""ZeRO 3 keeps smaller parameters whole on every rank: gathering norms and biases costs more than it saves."""


class DeepSpeedEngine:
    """One rank of ``layout.world_size``."""

    def __init__(self, model: nn.Module, config: TrainingConfig, layout: Layout, optimizer: object = None) -> None:
        if optimizer is not None or config.optimizer != "adamw":
            raise StageError(
                "ZeRO cuts weights into flat pieces, on which only AdamW works as it does in one process: set the "
                "stage's optimizer to adamw (and dpo.merging to none), or run it with --engine torch"
            )
        self.model, self.config, self.layout = model, config, layout
        self.rank, self.world_size = layout.rank, layout.world_size
        self.measure = False
        self.measured: dict[str, float] = {}
        self._accept: Callable[[float], bool] = lambda norm: True
        self._norm = float("nan")
        self._deepspeed = _start()
        communication.watch(self._deepspeed.comm.comm.cdb)
        # ZeRO 3 empties the parameters, bfloat16 rounds them and shared experts are elsewhere: the caller's model stays
        # whole, to be refreshed.
        self._is_copy = layout.zero_stage == 3 or config.precision == "bfloat16" or layout.expert_parallel > 1
        inner = copy.deepcopy(model) if self._is_copy else model
        self._undo = prepared(inner, recompute=config.recompute, compiled=config.compile)
        self._apart = parallelise(inner, layout) if layout.sequence_parallel > 1 else lambda: None
        has_experts = any(isinstance(module, MoE) for module in inner.modules())
        self.experts = SharedExperts(inner, config, layout) if layout.expert_parallel > 1 and has_experts else None
        self.wrapper = _Wrapper(inner)
        optimizer = adamw(parameter_groups(inner, config.weight_decay), config)
        for buffered in inner.buffers():  # identical on all ranks already, and no part of a checkpoint
            buffered.requires_grad_(False)
        self.engine = self._deepspeed.initialize(
            model=self.wrapper, optimizer=optimizer, config=deepspeed_config(config, layout)
        )[0]
        for module in inner.modules():
            if isinstance(module, Transformer):  # DeepSpeed's cast to bfloat16 takes the buffers along
                module.reset_rotation()
        if layout.zero_stage == 3:
            self._register_shared(inner)
        self._guard()
        self._create_moments()
        if config.precision == "bfloat16":
            self._set_weights(dict(model.named_parameters()))
        self.engine.train()

    def forward(self, objective: Objective, batch: Any) -> tuple[Tensor, Mapping[str, float]]:
        self.wrapper.objective = objective
        loss = self.engine(batch)
        return loss, self.wrapper.metrics

    def backward(self, loss: Tensor, weight: float, *, last: bool) -> None:
        self.engine.set_gradient_accumulation_boundary(last)
        # DeepSpeed averages over the ranks; the weights of all ranks' parts add up to one already.
        self.engine.backward(loss * (weight * self.world_size), scale_wrt_gas=False)

    def update(self, learning_rate: float, accept: Callable[[float], bool]) -> float:
        self._accept, self._norm, self._learning_rate = accept, float("nan"), learning_rate
        for group in self.engine.optimizer.param_groups:
            group["lr"] = learning_rate
        self.engine.step()
        if self.experts is not None:
            self.experts.clear()
        return self._norm

    def sum(self, values: list[float]) -> list[float]:
        if self.world_size == 1:
            return values
        total = torch.tensor(values, dtype=torch.float64, device=self.engine.device)
        self._deepspeed.comm.all_reduce(total)
        return total.tolist()

    @torch.no_grad()
    def refresh(self) -> None:
        if self._is_copy:
            ours = dict(self.model.named_parameters())
            for name, value in self._values("weight"):
                ours[name].copy_(value)

    @torch.no_grad()
    def state(self) -> State:
        """Every rank gathers each parameter in turn and keeps every ``world_size``-th of them."""
        model: dict[str, Tensor] = {}
        moments: dict[str, dict[str, Tensor]] = {}
        step = torch.tensor(float(self._step))
        columns = (self._values("weight"), *(self._values(key) for key in MOMENTS))
        for index, row in enumerate(zip(*columns, strict=True)):
            if index % self.world_size == self.rank:
                name = row[0][0]
                model[name], *kept = (value.to("cpu", copy=True) for _, value in row)
                moments[name] = {"step": step.clone(), **dict(zip(MOMENTS, kept, strict=True))}
        return {"model": model, "optimizer": {"adamw": moments}}

    def load(self, state: State) -> None:
        saved = state["optimizer"]
        if "adamw" not in saved:
            raise StageError("this stage was begun with another optimizer than AdamW: finish it with --engine torch")
        self._set_weights(state["model"])
        step = 0.0
        for name, parameter in self._named():
            kept = saved["adamw"].get(name, {})
            step = float(kept.get("step", step))
            for key in MOMENTS:
                value = kept.get(key, torch.zeros(_shape(parameter)))
                self._utilities.safe_set_full_optimizer_state(parameter, value.to(self.engine.device), key)
        for flat in self._flat():
            self._adamw.state[flat]["step"].fill_(step)
        if self.experts is not None:
            self.experts.load(state["model"], saved["adamw"])
        self.refresh()

    def close(self) -> None:
        self.refresh()
        self._undo()
        self._apart()
        if self.layout.zero_stage < 3:
            self.engine.destroy()

    # -- what DeepSpeed does not offer from outside --------------------------------------------------------------

    def _guard(self) -> None:
        """Let the loop see the gradient's norm before the step, and refuse the step as if a number had overflowed."""
        optimizer = self.engine.optimizer

        def judged(norm: float) -> float:
            # DeepSpeed's helpers say -1 where a norm is not finite, and count infinity as an overflow.
            self._norm = norm if norm >= 0 else float("inf")
            if self.experts is not None:
                self._norm = self.experts.norm(self._norm)
            if not self._accept(self._norm):
                return float("inf")
            if self.experts is not None:
                self.experts.step(self._learning_rate, self._norm)
            return self._norm

        if self.layout.zero_stage == 3:
            from deepspeed.runtime.zero.stage3 import combine_grad_norm_groups

            groups = optimizer._get_norm_groups
            optimizer._get_norm_groups = lambda: _as_groups(judged(float(combine_grad_norm_groups(groups()))))
        else:
            optimizer.check_grad_overflow = True
            norm = optimizer.scaled_global_norm
            optimizer.scaled_global_norm = lambda *given, **named: torch.tensor(judged(float(norm(*given, **named))))
        check = optimizer.check_overflow

        def checked(*given: Any, **named: Any) -> Any:
            result = check(*given, **named)
            if optimizer.overflow:
                self._norm = float("inf")
                self._accept(self._norm)
            return result

        optimizer.check_overflow = checked

    def _create_moments(self) -> None:
        """Adam's state before the first step, so that a checkpoint can be loaded into it."""
        for flat in self._flat():
            self._adamw.state[flat] = {
                "step": torch.zeros((), dtype=torch.float32, device=flat.device),
                **{key: torch.zeros_like(flat) for key in MOMENTS},
            }
        if self.layout.zero_stage < 3:
            self.engine.optimizer._lazy_init_hp_params_optimizer_state()

    def _register_shared(self, inner: nn.Module) -> None:
        """The objectives use the output matrix outside the module that owns it: it is gathered with the whole."""
        for decoder in (module for module in inner.modules() if isinstance(module, Transformer)):
            owner = decoder.model.embed_tokens if decoder.config.tie_word_embeddings else decoder.lm_head
            self._deepspeed.zero.register_external_parameter(self.wrapper, owner.weight)

    @torch.no_grad()
    def _set_weights(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self._named():
            value = values[name].detach().to(self.engine.device, torch.float32)
            self._utilities.safe_set_full_fp32_param(parameter, value)
            if self.layout.zero_stage == 3:
                with self._deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
                    if self.rank == 0:
                        parameter.copy_(value)
            else:
                parameter.copy_(value)

    def _values(self, key: str) -> Iterator[tuple[str, Tensor]]:
        """Every parameter's name and its float32 master (``weight``) or moment, gathered from all ranks in turn."""
        for name, parameter in self._named():
            yield name, self._whole(parameter, None if key == "weight" else key)
        if self.experts is not None:
            for name in self.experts.owned:
                yield name, self.experts.whole(name, key)

    def _whole(self, parameter: nn.Parameter, key: str | None = None) -> Tensor:
        """The float32 master of a parameter, or one of its moments, gathered from all ranks."""
        if key is None:
            return self._utilities.safe_get_full_fp32_param(parameter).view(_shape(parameter))
        return self._utilities.safe_get_full_optimizer_state(parameter, key).view(_shape(parameter))

    def _named(self) -> list[tuple[str, nn.Parameter]]:
        return list(self.wrapper.model.named_parameters())

    def _flat(self) -> list[Tensor]:
        """The pieces of this rank that AdamW steps on."""
        optimizer = self.engine.optimizer
        if self.layout.zero_stage == 3:
            return optimizer.fp32_partitioned_groups_flat
        return optimizer.single_partition_of_fp32_groups

    @property
    def _adamw(self) -> torch.optim.Optimizer:
        return self.engine.optimizer.optimizer

    @property
    def _step(self) -> float:
        return float(self._adamw.state[self._flat()[0]]["step"])

    @property
    def _utilities(self) -> Any:
        return self._deepspeed.utils


class _Wrapper(nn.Module):
    """The objective as the forward of a module, which is what DeepSpeed hangs its hooks on."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.objective: Objective | None = None
        self.metrics: Mapping[str, float] = {}

    def forward(self, batch: Any) -> Tensor:
        assert self.objective is not None
        loss, self.metrics = self.objective(self.model, batch)
        return loss


def deepspeed_config(config: TrainingConfig, layout: Layout) -> dict[str, Any]:
    """DeepSpeed's own configuration. The loop accumulates, so a DeepSpeed batch is one sequence a rank and step."""
    zero: dict[str, Any] = {"stage": layout.zero_stage}
    if layout.zero_stage == 3:
        zero["stage3_param_persistence_threshold"] = PERSISTENT
    if layout.offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    return {
        "train_batch_size": layout.world_size,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.max_grad_norm,
        "bf16": {"enabled": config.precision == "bfloat16", "check_grad_overflow": True},
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }


def _start() -> Any:
    """Import DeepSpeed and join the other ranks."""
    try:
        import deepspeed
    except ImportError:
        raise StageError("--engine deepspeed needs the package: pip install 'qwenforge[deepspeed]'") from None
    import logging

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # A shared-memory all-reduce for inference, which would be compiled at the first start of every machine.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if not torch.distributed.is_initialized():
        deepspeed.init_distributed(timeout=timedelta(seconds=int(os.environ.get("QWENFORGE_STALL_SECONDS", "1800"))))
    return deepspeed


def _as_groups(norm: float) -> list[Tensor]:
    return [torch.tensor(norm)]


def _shape(parameter: nn.Parameter) -> torch.Size:
    return getattr(parameter, "ds_shape", parameter.shape)


__all__ = ["DeepSpeedEngine", "deepspeed_config"]
