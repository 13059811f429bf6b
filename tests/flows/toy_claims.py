"""Claims without any training, to test how they are measured, kept and resumed."""

import os
import signal
from pathlib import Path

from components.claims.claim import Bench, Claim, Contrast, Measured, Scores
from components.stage import Inputs, Run, StageConfig, Summary


class ToyConfig(StageConfig):
    log: str
    gap: float = 1.0
    kill_at: str = ""  # a file whose absence kills the process in seed 1
    fail: bool = False


class ToyStageConfig(StageConfig):
    log: str
    value: float


def toy_stage(config: ToyStageConfig, inputs: Inputs, run: Run) -> Summary:
    note(config.log, f"stage {config.value:g} seed {run.seed}")
    (run.output / "value.txt").write_text(str(config.value + run.seed / 10))
    return {"value": config.value}


def measure(config: ToyConfig, bench: Bench) -> Measured:
    note(config.log, f"measure seed {bench.run.seed}")
    if config.fail:
        raise ValueError("it cannot be measured")
    made = [
        bench.make(toy_stage, "evaluation", ToyStageConfig(log=config.log, value=value), dict(bench.inputs))
        for value in (config.gap, 0.0)
    ]
    if bench.run.seed == 1 and config.kill_at and not Path(config.kill_at).exists():
        Path(config.kill_at).write_text("killed once")
        os.kill(os.getpid(), signal.SIGKILL)
    values = [float((artifact.path / "value.txt").read_text()) for artifact in made]
    return {"effect": Scores.of(*([value + item / 100 for item in range(5)] for value in values))}


def toy(id: str, config: ToyConfig) -> Claim:
    return Claim(id, "toys", f"Toy {id}", "0", "two numbers", (), config, measure, (Contrast("effect"),))


def note(log: str, line: str) -> None:
    with Path(log).open("a") as file:
        file.write(line + "\n")
