"""One training loop for every objective: language modelling, SFT, DPO, reward model, GRPO.

What differs between the objectives is two functions: ``batch_at(step)``, a pure function of the seed, the step
and (for GRPO) the current weights, and ``objective(model, batch)``. There is no loader state: a run that was
killed resumes from its last checkpoint to bit-identical weights.
"""

import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from components.stage import Run, StageError
from components.training.checkpoint import load_state, save_state
from components.training.config import TrainingConfig
from components.training.optimizer import MuonWithAdamW, build_optimizer
from components.training.schedule import learning_rate_at

Optimizer = torch.optim.Optimizer | MuonWithAdamW
Objective = Callable[[Any, Any], tuple[Tensor, Mapping[str, float]]]


def train(
    model: nn.Module,
    objective: Objective,
    batch_at: Callable[[int], Any],
    *,
    config: TrainingConfig,
    steps: int,
    run: Run,
    name: str = "training",
    optimizer: Optimizer | None = None,
) -> list[dict[str, float]]:
    """Make ``steps`` updates of ``model`` in place; return the history, a point every ``log_every`` steps.

    ``batch_at`` may return a list: micro-batches of equal weight whose gradients are accumulated. The objective
    returns a scalar loss (a mean) and metrics; the metric ``tokens`` is summed, the others are averaged.
    The history holds step, loss, learning_rate, grad_norm, tokens (so far) and the objective's metrics: nothing
    that depends on the clock, which goes to ``run.metrics``.

    Raises StageError when the loss or the gradient is not finite.
    """
    optimizer = optimizer or build_optimizer(model, config)
    folder = run.state / name
    history, start, tokens = _resume(folder, model, optimizer)
    window: dict[str, list[float]] = defaultdict(list)
    if start:
        run.info(f"{name}: resuming after step {start} of {steps}")
    model.train()
    with run.progress(steps, name, unit="step", start=start) as bar:
        clock = time.perf_counter()
        for step in range(start, steps):
            batch = batch_at(step)
            micro_batches = batch if isinstance(batch, list) else [batch]
            for micro_batch in micro_batches:
                loss, metrics = objective(model, micro_batch)
                (loss / len(micro_batches)).backward()
                window["loss"].append(loss.item())
                for key, value in metrics.items():
                    window[key].append(float(value))
            grad_norm = float(nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm))
            window["grad_norm"].append(grad_norm)
            if not (math.isfinite(grad_norm) and math.isfinite(window["loss"][-1])):
                raise StageError(
                    f"{name}: loss {window['loss'][-1]}, gradient norm {grad_norm} at step {step} are not finite; "
                    f"lower its learning_rate ({config.learning_rate:g}) or look at the batch of that step"
                )
            learning_rate = learning_rate_at(step, steps, config)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

            done = step + 1
            if done % config.log_every == 0 or done == steps:
                tokens += int(sum(window.pop("tokens", [0])))
                point = {"step": done, "tokens": tokens, "learning_rate": learning_rate}
                point |= {key: sum(values) / len(values) for key, values in sorted(window.items())}
                history.append(point)
                now = time.perf_counter()
                spent, clock = max(1e-9, now - clock), now
                previous = history[-2]["tokens"] if len(history) > 1 else 0
                rate = (tokens - previous) / spent
                run.metrics({**point, "tokens_per_second": rate}, step=done)
                bar.advance(0, loss=round(point["loss"], 3))
                window.clear()
            bar.advance(1)
            # Only at the ends of averaging windows, so that the history resumes exactly too.
            if done < steps and done % _checkpoint_interval(config) == 0:
                _save(folder, done, model, optimizer, history)
    model.eval()
    return history


def _checkpoint_interval(config: TrainingConfig) -> int:
    """``checkpoint_every`` rounded up to a whole number of averaging windows."""
    return math.ceil(config.checkpoint_every / config.log_every) * config.log_every


def _save(folder, step: int, model: nn.Module, optimizer: Optimizer, history: list[dict]) -> None:
    save_state(
        folder,
        step,
        {
            "step": step,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "history": json.dumps(history),
            "random": torch.get_rng_state(),
        },
    )


def _resume(folder, model: nn.Module, optimizer: Optimizer) -> tuple[list[dict], int, int]:
    """Load the newest whole state into model and optimizer; (history, updates done, tokens seen)."""
    state = load_state(folder)
    if state is None:
        return [], 0, 0
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["random"])
    history = json.loads(state["history"])
    return history, state["step"], int(history[-1]["tokens"]) if history else 0
