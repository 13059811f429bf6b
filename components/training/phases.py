"""Several trainings, one after the other, as one stage: their state and their histories."""

import json
from collections.abc import Callable
from pathlib import Path

from components.training.checkpoint import steps_of, write_atomically

History = list[dict[str, float]]


def phase(state: Path, name: str, following: str, train: Callable[[], History]) -> History:
    """The history of the phase ``name``: trained now, or read where the phase ``following`` has begun already.

    Once that has a checkpoint of its own, this one's weights are of no use to anyone.
    """
    kept = state / f"{name}.history.json"
    if kept.exists() and steps_of(state / following):
        return json.loads(kept.read_text())
    history = train()
    write_atomically(kept, json.dumps(history).encode())
    return history


def joined(histories: list[History]) -> History:
    """One history: steps and tokens of a phase count on from those of the phase before."""
    whole: History = []
    for history in histories:
        step, tokens = (whole[-1]["step"], whole[-1]["tokens"]) if whole else (0, 0)
        whole += [{**point, "step": point["step"] + step, "tokens": point["tokens"] + tokens} for point in history]
    return whole


__all__ = ["joined", "phase"]
