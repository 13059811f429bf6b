"""A small pipeline of plain stages, to test the adapter and the flow without any training."""

import json
import os
import signal
import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from components.stage import Inputs, Run, StageConfig, StageError, Summary, effect
from flows.stages import Stage


class NumbersConfig(StageConfig):
    count: int = 10


class SumConfig(StageConfig):
    fail: str = ""  # what goes wrong
    once: str = ""  # a file that marks that it went wrong before


class ToyRecipe(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    numbers: NumbersConfig = NumbersConfig()
    total: SumConfig = SumConfig()
    double: SumConfig = SumConfig()


def numbers(config: NumbersConfig, inputs: Inputs, run: Run) -> Summary:
    """Resumable: a number a file in ``state``."""
    with run.progress(config.count, "numbers") as bar:
        for index in range(config.count):
            file = run.state / f"{index}.json"
            if not file.exists():
                file.write_text(json.dumps(index * (run.seed + 1)))
                with (run.state / "made").open("a") as log:
                    log.write(f"{index}\n")
            bar.advance()
    values = [json.loads((run.state / f"{index}.json").read_text()) for index in range(config.count)]
    (run.output / "numbers.json").write_text(json.dumps(values))
    return {"count": len(values), "effects": [effect("count", len(values), 0, unit="numbers")]}


def total(config: SumConfig, inputs: Inputs, run: Run) -> Summary:
    misbehave(config)
    values = json.loads((inputs["numbers"].path / "numbers.json").read_text())
    run.metrics({"seen": len(values)}, step=1)
    (run.output / "total.json").write_text(json.dumps(sum(values)))
    return {"total": sum(values)}


def double(config: SumConfig, inputs: Inputs, run: Run) -> Summary:
    misbehave(config)
    value = json.loads((inputs["total"].path / "total.json").read_text())
    (run.output / "double.json").write_text(json.dumps(2 * value))
    return {"double": 2 * value}


def misbehave(config: SumConfig) -> None:
    if config.once:
        if Path(config.once).exists():
            return
        Path(config.once).write_text("was here")
    match config.fail:
        case "stage":
            raise StageError("the corpus has no documents; add a source")
        case "bug":
            raise ZeroDivisionError("division by zero")
        case "network":
            raise ConnectionResetError("connection reset by peer")
        case "disk":
            with open("/dev/full", "wb", buffering=0) as full:  # noqa: PTH123 (a device)
                full.write(b"x")
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "wait":
            time.sleep(60)


TOY = (
    Stage("numbers", "toy:numbers", "corpus"),
    Stage("total", "toy:total", "shards", {"numbers": "numbers"}),
    Stage("double", "toy:double", "checkpoint", {"total": "total"}, alias="base"),
)
