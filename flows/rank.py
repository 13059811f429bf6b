"""One rank of a distributed stage: ``python -m flows.rank SPECIFICATION``, started by ``infra.launching``.

Every rank calls the stage function. They share what ``train`` does; the first one alone writes the artifact, shows
progress and goes on when training is done.
"""

import contextlib
import faulthandler
import importlib
import json
import os
import shutil
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.stage import Layout, RankDone, StageError, Summary
from infra.hardware import resolve_device
from infra.launching import LOST


@dataclass(frozen=True)
class FoldedArtifact:
    """An artifact that the parent has opened and verified."""

    kind: str
    digest: str
    path: Path
    summary: Summary


class RankRun:
    """A ``components.stage.Run`` that tells its parent, through files."""

    def __init__(self, specification: Mapping[str, Any], rank: int, folder: Path) -> None:
        self.seed: int = specification["seed"]
        self.state = Path(specification["state"])
        self.output = Path(specification["output"]) if rank == 0 else folder / f"output-{rank}"
        self.layout = Layout(**specification["layout"]).model_copy(update={"rank": rank})
        self.ceiling: float = specification["ceiling"]
        self._device_setting: str = specification["device"]
        self._beat = folder / f"rank-{rank}.beat"
        self._events = (folder / "events.jsonl").open("a", encoding="utf-8") if rank == 0 else None
        self._parent, self._beaten = os.getppid(), 0.0
        self.output.mkdir(parents=True, exist_ok=True)
        self.beat()

    @property
    def device(self) -> str:
        """``cuda`` is each rank's own GPU."""
        return resolve_device(self._device_setting)

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        self._tell({"event": "metrics", "values": dict(values), "step": step})

    def info(self, message: str) -> None:
        self._tell({"event": "info", "message": message})

    @contextmanager
    def progress(self, total: int, description: str, *, unit: str = "it", start: int = 0) -> Iterator["RankRun"]:
        self._tell({"event": "begin", "total": total, "description": description, "unit": unit, "start": start})
        yield self
        self._tell({"event": "end"})

    def advance(self, amount: int = 1, **fields: float | str) -> None:
        self._tell({"event": "advance", "amount": amount, "fields": fields})

    def beat(self) -> None:
        """This rank is getting on. Where its launcher is gone it must be too: another run may work on the stage."""
        now = time.monotonic()
        if now - self._beaten > 0.5:
            self._beaten = now
            self._beat.touch()
            if os.getppid() != self._parent:
                os._exit(1)

    def _tell(self, event: dict[str, Any]) -> None:
        self.beat()
        if self._events is not None:
            self._events.write(json.dumps(event) + "\n")
            self._events.flush()


def main(path: Path) -> int:
    """Run the stage of the specification file; 0 when this rank's part is done."""
    rank, folder = int(os.environ["RANK"]), path.parent
    faulthandler.register(signal.SIGUSR1)  # a stalled rank shows where it stands
    specification = json.loads(path.read_text())
    (folder / f"rank-{rank}.pid").write_text(f"{socket.gethostname()} {os.getpid()}")
    try:
        run_rank(specification, rank, folder)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        traceback.print_exc()
        kind = "StageError" if isinstance(error, StageError) else type(error).__name__
        message = str(error) if kind == "StageError" else f"rank {rank}: {kind}: {error}"
        if kind in ("RuntimeError", "DistBackendError", "DistNetworkError") and any(
            word in str(error).lower() for word in ("gloo", "nccl", "connection", "broken pipe")
        ):
            kind = LOST  # torch has no one type for it
        partial = folder / f"rank-{rank}.partial"
        partial.write_text(json.dumps({"kind": kind, "message": message}))
        partial.replace(folder / f"rank-{rank}.error")
        return 1
    (folder / f"rank-{rank}.done").touch()
    return 0


def run_rank(specification: Mapping[str, Any], rank: int, folder: Path) -> None:
    """Call the stage; the first rank leaves its summary in ``summary.json``."""
    run = RankRun(specification, rank, folder)
    if run.device == "cuda":
        import torch

        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    stage, config_class = _named(specification["function"]), _named(specification["config_class"])
    config = config_class.model_validate(specification["config"])
    inputs = {name: FoldedArtifact(**{**given, "path": Path(given["path"])})
              for name, given in specification["inputs"].items()}  # fmt: skip
    with contextlib.suppress(RankDone):
        summary = stage(config, inputs, run)
        if rank == 0:
            (folder / "summary.json").write_text(json.dumps(summary))
    if rank:
        shutil.rmtree(run.output, ignore_errors=True)


def _named(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


if __name__ == "__main__":
    code = main(Path(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    # Not through the interpreter's end: process groups wait there for ranks that have left already.
    os._exit(code)
