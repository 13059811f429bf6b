"""One training loop for every objective: language modelling, SFT, DPO, reward model, GRPO.

What differs between the objectives is two functions: ``batch_at(step)``, a pure function of the seed, the step
and (for GRPO) the current weights, and ``objective(model, batch)``. There is no loader state: a run that was
killed resumes from its last checkpoint to bit-identical weights. What differs between one process and many is the
``Engine``.
"""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from components.stage import Layout, RankDone, Run, StageError
from components.training.checkpoint import Checkpointer, load_state
from components.training.config import TrainingConfig
from components.training.engine import Objective, Optimizer, build_engine
from components.training.recorder import Documents, FlightRecorder
from components.training.schedule import learning_rate_at
from components.training.sequence_parallel import parts_of
from components.training.sharding import Split, check_divides, split_rows, split_windows
from components.training.telemetry import Telemetry
from components.training.watch import Incident, Watch, incidents_from_json, incidents_to_json

SUMMED = "tokens"


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
    split: Split = split_rows,
    rows: int | None = None,
    documents_at: Documents | None = None,
    flops_per_token: float = 0.0,
    samples_from_model: bool = False,
    stop: Callable[[int], bool] = lambda step: False,
    keep_at: Collection[int] = (),
    last: bool = True,
) -> list[dict[str, float]]:
    """Make ``steps`` updates of ``model`` in place; return the history, a point every ``log_every`` steps.

    ``batch_at`` may return a list: micro-batches of equal weight whose gradients are accumulated. The objective
    returns a scalar loss (a mean) and metrics; the metric ``tokens`` is summed, the others are averaged.
    The history holds step, loss, learning_rate, grad_norm, tokens (so far) and the objective's metrics: nothing
    that depends on the clock, which goes to ``run.metrics``.

    Parameters
    ----------
    split : how a micro-batch is shared by ranks (``components.training.sharding``).
    rows : nominal sequences an update, which the world size must divide; None: whatever ``split`` makes of it.
    documents_at : ids of the documents in a batch, for the flight recorder.
    flops_per_token : of forward and backward, for the measured utilisation.
    samples_from_model : ``batch_at`` uses ``model``'s current weights (GRPO).
    stop : asked before every update with the number of those made; True: no more are made. All ranks must agree.
    keep_at : numbers of updates after which there is a checkpoint, too, that stays.
    last : nothing is trained after this, so that ranks beyond the first may end here.

    Raises StageError when training goes wrong and ``config.watch`` says to stop, and when the disk is full.
    Raises RankDone on every rank but the first when training is done and ``last``.
    """
    layout = run.layout
    if split is not split_windows:  # only of windows can a slice be trained on; others are shared by rows
        layout = layout.model_copy(update={"sequence_parallel": 1})
    check_divides(rows, layout.world_size // layout.sequence_parallel, name)
    engine = build_engine(model, config, layout, optimizer)
    training = _Training(engine, objective, batch_at, config, steps, run, name, frozenset(keep_at))
    training.split, training.documents_at = split, documents_at
    training.layout = layout
    training.flops_per_token, training.samples_from_model = flops_per_token, samples_from_model
    training.stop = stop
    try:
        history = training.run()
    finally:
        training.checkpoints.settle()
    engine.close()
    model.eval()
    if last and layout.rank:
        raise RankDone
    return history


class _Training:
    """The state of one call of ``train``."""

    split: Split
    documents_at: Documents | None
    layout: Layout
    flops_per_token: float
    samples_from_model: bool
    stop: Callable[[int], bool]

    def __init__(
        self, engine: Any, objective: Objective, batch_at: Callable[[int], Any], config: TrainingConfig, steps: int,
        run: Run, name: str, keep_at: frozenset[int],
    ) -> None:  # fmt: skip
        self.engine, self.objective, self.batch_at = engine, objective, batch_at
        self.config, self.steps, self.stage_run, self.name = config, steps, run, name
        self.folder, self.keep_at = run.state / name, keep_at
        self.watch = Watch(config.watch)
        self.history: list[dict[str, float]] = []
        self.window: dict[str, list[float]] = defaultdict(list)
        self.tokens = 0
        self.offset = 0  # batches left out so far, by rollbacks
        self.rate_factor = 1.0
        self.incidents: list[Incident] = []
        self.checkpoints = Checkpointer(
            self.folder, kept=config.keep_last, every=config.keep_every, best=config.keep_best, always=keep_at,
            rank=engine.rank, world_size=engine.world_size,
        )  # fmt: skip

    def run(self) -> list[dict[str, float]]:
        config, run, name, steps = self.config, self.stage_run, self.name, self.steps
        self.recorder = FlightRecorder(self.documents_at)
        start = self._restore()
        if start:
            run.info(f"{name}: resuming after step {start} of {steps}")
        elif config.watch.not_finite == "rollback" or config.watch.spike == "rollback":
            self._checkpoint(0)  # or an incident before the first checkpoint had nothing to go back to
        telemetry = Telemetry(self.flops_per_token, run.ceiling, self.engine.world_size)
        with run.progress(steps, name, unit="step", start=start) as bar:
            step = start
            while step < steps and not self.stop(step):
                with telemetry.step():
                    incident = self._step(step, telemetry)
                if incident is not None:
                    self._report(incident)
                    if incident.action == "rollback":
                        step = self._roll_back(incident)
                        continue
                step += 1
                if step % config.log_every == 0 or step == steps or step in self.keep_at:
                    loss = self._close_window(step, telemetry)
                    bar.advance(0, loss=round(loss, 3))
                bar.advance(1)
                # Only at the ends of averaging windows, so that the history resumes exactly too.
                if step < steps and (step % _checkpoint_interval(config) == 0 or step in self.keep_at):
                    telemetry.mark("optimizer")
                    self._checkpoint(step)
                    telemetry.mark("checkpoint")
            if self.window:  # stopped in the middle of one
                self._close_window(step, telemetry)
            self.checkpoints.wait()
        if self.incidents and not self.engine.rank:
            self.recorder.write(run.output / "flight.json", [asdict(incident) for incident in self.incidents])
        return self.history

    # -- one update ----------------------------------------------------------------------------------------------

    def _step(self, step: int, telemetry: Telemetry) -> Incident | None:
        """One update, or why there was none (or a warning)."""
        engine, config = self.engine, self.config
        if self.samples_from_model:
            engine.refresh()
        number = step + self.offset
        parts = parts_of(self.batch_at(number), self.split, self.layout)
        telemetry.mark("data")
        seen: dict[str, list[float]] = defaultdict(list)
        weights: list[float] = []
        for index, (batch, weight) in enumerate(parts):
            loss, metrics = engine.forward(self.objective, batch)
            telemetry.mark("forward")
            engine.backward(loss, weight, last=index == len(parts) - 1)
            seen["loss"].append(loss.item())
            for key, value in metrics.items():
                seen[key].append(float(value))
            weights.append(weight)
            telemetry.mark("backward")
        mean_loss, means = self._over_ranks(seen, weights)
        learning_rate = learning_rate_at(step, self.steps, config) * self.rate_factor
        incident: Incident | None = None

        def accept(norm: float) -> bool:
            nonlocal incident
            incident = self.watch.judge(step, number, mean_loss, norm, means, config.learning_rate)
            return incident is None or not incident.refuses

        done = step + 1
        engine.measure = done % config.log_every == 0 or done == self.steps
        grad_norm = engine.update(learning_rate, accept)
        self.learning_rate = learning_rate
        self.recorder.note(step, number, mean_loss, grad_norm, learning_rate)
        if incident is None or not incident.refuses:
            for key, values in seen.items():
                self.window[key] += values
            self.window["grad_norm"].append(grad_norm)
        telemetry.mark("optimizer")
        return incident

    def _over_ranks(self, seen: dict[str, list[float]], weights: list[float]) -> tuple[float, Mapping[str, float]]:
        """Loss of the whole batch and mean metrics. With several ranks ``seen`` becomes theirs, a value each."""
        losses = sum(loss * weight for loss, weight in zip(seen["loss"], weights, strict=True) if weight)
        if self.engine.world_size == 1:
            return losses, {key: values[-1] for key, values in seen.items()}
        keys = sorted(seen)
        own = [losses, sum(weights)]
        for key in keys:
            weighted = zip(seen[key], weights, strict=True)
            own.append(sum(value * (bool(w) if key == SUMMED else w) for value, w in weighted if w))
        loss, total, *values = self.engine.sum(own)
        means = {key: v if key == SUMMED else v / total for key, v in zip(keys, values, strict=True)} | {"loss": loss}
        for key in keys:
            seen[key] = [means[key]]
        return loss, means

    def _close_window(self, done: int, telemetry: Telemetry) -> float:
        """Average the window into a point of the history; send it with what the clock says."""
        window, before = self.window, self.tokens
        self.tokens += int(sum(window.pop(SUMMED, [0])))
        point = {"step": done, "tokens": self.tokens, "learning_rate": self.learning_rate}
        point |= {key: sum(values) / len(values) for key, values in sorted(window.items()) if values}
        if "loss" not in point:  # every step of the window was refused
            point |= {"loss": self.history[-1]["loss"] if self.history else 0.0, "grad_norm": 0.0}
        self.history.append(point)
        window.clear()
        if not self.engine.rank:
            measured = telemetry.metrics(self.tokens - before) | self.engine.measured
            self.stage_run.metrics({**point, **measured}, step=done)
        return point["loss"]

    # -- when something goes wrong -------------------------------------------------------------------------------

    def _report(self, incident: Incident) -> None:
        """Log it, keep it, and stop where that is what the recipe says or there have been too many."""
        self.incidents.append(incident)
        counted = [one for one in self.incidents if one.refuses]
        stop = incident.action == "stop" or len(counted) > self.config.watch.most_incidents
        path = self.folder / "flight.json"
        if incident.refuses and not self.engine.rank:
            self.recorder.write(path, [asdict(one) for one in self.incidents])
        if stop:
            many = "" if incident.action == "stop" else f" ({len(counted)} incidents: no more are passed over)"
            raise StageError(f"{self.name}: {incident.message}{many}; the last steps are in {path}")
        self.stage_run.info(f"{self.name}: {incident.message} -> {incident.action}")
        self.stage_run.metrics({"incidents": float(len(self.incidents))}, step=incident.step)
        if incident.action == "lower":
            self.rate_factor *= self.config.watch.lower_factor

    def _roll_back(self, incident: Incident) -> int:
        """Back to the last checkpoint; the batches since, the bad one included, are left out. The step to go on with.

        The checkpoint is written anew with what was decided, so that a kill does not bring the bad span back.
        """
        self.checkpoints.wait()
        incidents, factor = self.incidents, self.rate_factor
        step = self._restore()
        self.offset = incident.batch + 1 - step
        self.incidents, self.rate_factor = incidents, factor
        self.window.clear()
        self._checkpoint(step)
        return step

    # -- state ---------------------------------------------------------------------------------------------------

    def _checkpoint(self, step: int) -> None:
        state = self.engine.state() | {
            "step": step,
            "history": json.dumps(self.history),
            "random": torch.get_rng_state(),
            "watch": self.watch.state(),
            "flight": self.recorder.state(),
            "incidents": incidents_to_json(self.incidents),
            "offset": self.offset,
            "rate_factor": self.rate_factor,
        }
        self.checkpoints.save(step, state, self.history[-1]["loss"] if self.history else None)

    def _restore(self) -> int:
        """Take over the newest whole state; updates done so far."""
        state = load_state(self.folder)
        if state is None:
            return 0
        self.engine.load(state)
        torch.set_rng_state(state["random"])
        self.history = json.loads(state["history"])
        self.tokens = int(self.history[-1]["tokens"]) if self.history else 0
        self.watch.load(state["watch"])
        self.recorder.load(state["flight"])
        self.incidents = incidents_from_json(state["incidents"])
        self.offset, self.rate_factor = state["offset"], state["rate_factor"]
        return state["step"]


def _checkpoint_interval(config: TrainingConfig) -> int:
    """``checkpoint_every`` rounded up to a whole number of averaging windows."""
    return math.ceil(config.checkpoint_every / config.log_every) * config.log_every


__all__ = ["train"]
