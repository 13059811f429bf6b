"""The guards of one GRPO run: they read what the worker keeps, and keep the best weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import load, save

from components.preference.guards import (
    GuardConfig,
    Heldout,
    Signals,
    Trip,
    as_facts,
    habits,
    judge_heldout,
    judge_rollouts,
    signals_of,
)
from components.stage import Run, Summary
from components.training.checkpoint import write_atomically

if TYPE_CHECKING:
    from components.preference.grpo import GRPOConfig
    from model.transformer import Transformer


class Guard:
    """Judges every step, and remembers which weights were best."""

    def __init__(self, config: "GRPOConfig", run: Run, rollouts: Path, measured: Path) -> None:
        self.config: GuardConfig = config.guards
        self.group, self.updates = config.group_size, config.updates_per_rollout
        self.run, self.rollouts, self.measured, self.best = run, rollouts, measured, run.state / "best"
        self._start = run.state / "habits.json"
        self.trips: list[Trip] = []
        self._before: dict[str, tuple[float, float]] = {}
        self._signals: list[Signals] = []
        self._judged = 0

    def remember_start(self, answers: Mapping[str, list[list[int]]]) -> None:
        """Keep how the policy before RL answers each query: by id, the tokens of its answers."""
        if self.config.action != "off":
            found = {query: habits(given) for query, given in answers.items()}
            write_atomically(self._start, json.dumps(found).encode())

    def stop(self, step: int) -> bool:
        """Whether no further update should be made after ``step`` of them.

        Steps are judged in order, those before a kill again, from what was sampled and measured before each.
        """
        if self.config.action == "off":
            return False
        while self._judged < step:
            self._judged += 1
            known = {trip.kind for trip in self.trips}
            new = [Trip(self._judged, *found) for found in self._judge(self._judged).items() if found[0] not in known]
            self.trips += new
            for trip in new:
                self.run.info(f"grpo: guard {trip.kind} at step {trip.step}: {trip.reason} -> {self.config.action}")
            if new and self.config.action == "stop":
                break
        return bool(self.trips) and self.config.action == "stop"

    def _judge(self, step: int) -> dict[str, str]:
        """What is wrong before update ``step`` + 1: kind -> reason."""
        found: dict[str, str] = {}
        if step % self.updates == 0:
            saved = json.loads((self.rollouts / f"{step // self.updates - 1:06d}.json").read_text())
            self._before = self._before or json.loads(self._start.read_text())
            self._signals.append(signals_of(saved, self.group, self._before))
            latest = self._signals[-1]
            watched = {"tokens": latest.tokens, "repetition": latest.repetition, "entropy": latest.entropy}
            if latest.kl is not None:
                watched["kl"] = latest.kl
            self.run.metrics({f"guard_{name}": value for name, value in watched.items()}, step=step)
            found |= judge_rollouts(self._signals, self.config)
        # The measurement at this very step comes after the verdict.
        if step > 1 and (now := self._heldout(step - 1)) is not None and (first := self._heldout(0)) is not None:
            found |= judge_heldout(first, now, self.config, self.run.seed)
        return found

    def _heldout(self, step: int) -> Heldout | None:
        path = self.measured / f"{step:06d}.json"
        saved = json.loads(path.read_text()) if path.exists() else {}
        return Heldout(np.array(saved["verdicts"]), np.array(saved["scores"])) if "scores" in saved else None

    # -- the best weights ------------------------------------------------------------------------------------

    def keep_if_best(self, step: int, pass_rate: float, model: "Transformer") -> None:
        """Keep the weights after ``step`` updates where no earlier measurement was as good. Called before this
        measurement is written, so that one that can be read has its weights."""
        if not (self.config.selects and step) or self.run.layout.rank:
            return
        if pass_rate > max(self._selection(before) for before in self._steps(step - 1)):
            self.best.mkdir(exist_ok=True)
            weights = {name: tensor.detach().cpu().contiguous() for name, tensor in _own(model).items()}
            write_atomically(self.best / f"{step:06d}.safetensors", save(weights))
            for older in sorted(self.best.glob("*.safetensors"))[:-1]:
                older.unlink()

    def take_best(self, done: int, model: "Transformer", initial: "Transformer") -> int:
        """Give ``model`` the weights of the best measurement up to ``done``; the step that they are of.

        The first of equals is best. ``initial`` holds the weights before the first update.
        """
        steps = self._steps(done)
        best = max(steps, key=lambda step: (self._selection(step), -step))
        if best == done:
            return done
        weights = _own(initial) if best == 0 else load((self.best / f"{best:06d}.safetensors").read_bytes())
        with torch.no_grad():
            for name, tensor in _own(model).items():
                tensor.copy_(weights[name])
        return best

    def summary(self, kept: int) -> Summary:
        return {"trips": as_facts(self.trips), "kept_step": kept}

    def _steps(self, last: int) -> list[int]:
        return [step for path in sorted(self.measured.glob("*.json")) if (step := int(path.stem)) <= last]

    def _selection(self, step: int) -> float:
        return selection(np.array(json.loads((self.measured / f"{step:06d}.json").read_text())["correct"]))


def selection(correct: np.ndarray) -> float:
    """Pass rate that decides which weights are best: of every other prompt, so that the rest can report it."""
    return float(correct[::2].mean())


def _own(model: "Transformer") -> dict[str, torch.Tensor]:
    return dict(model.named_parameters())
