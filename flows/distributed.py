"""Runs a training stage as the ranks of one launcher, in place of a call in this process."""

import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from pydantic import BaseModel

from components.stage import Artifact, Layout, StageError, Summary
from flows.errors import UsageError
from flows.stage_run import StageRun
from flows.stages import Stage
from infra.launching import Event, RankError, Ranks, launch
from infra.settings import Settings


def run_distributed(
    stage: Stage, config: BaseModel, inputs: Mapping[str, Artifact], run: StageRun, settings: Settings
) -> Summary:
    """The summary of ``stage``, whose artifact lies in ``run.output`` as if it had been called here.

    Raises StageError where a rank did, RankError and RankFailed otherwise.
    """
    folder = run.state.parent / "ranks"
    folder.mkdir(exist_ok=True)
    config_class = f"{type(config).__module__}:{type(config).__qualname__}"
    specification = {
        "function": stage.function,
        "config_class": config_class,
        "config": config.model_dump(mode="json"),
        "inputs": {
            name: {"kind": one.kind, "digest": one.digest, "path": str(one.path), "summary": dict(one.summary)}
            for name, one in inputs.items()
        },
        "seed": run.seed,
        "state": str(run.state),
        "output": str(run.output),
        "layout": run.layout.model_dump(),
        "ceiling": run.ceiling,
        "device": settings.device,
    }
    path = folder / "specification.json"
    path.write_text(json.dumps(specification))
    ranks = Ranks(run.layout.world_size, settings.host_file, settings.stall_seconds, settings.threads)
    with _Relay(run) as relay:
        try:
            launch("flows.rank", [str(path)], ranks, folder, relay.receive, _environment(settings))
        except RankError as error:
            raise (StageError(str(error)) if error.kind == "StageError" else error) from None
    return json.loads((folder / "summary.json").read_text())


class _Relay:
    """What the first rank tells, told by ``run``."""

    def __init__(self, run: StageRun) -> None:
        self.run, self.bars, self.open = run, ExitStack(), []  # type: ignore[var-annotated]

    def __enter__(self) -> "_Relay":
        return self

    def __exit__(self, *error: object) -> None:
        self.bars.close()

    def receive(self, event: Event) -> None:
        match event["event"]:
            case "info":
                self.run.info(event["message"])
            case "metrics":
                self.run.metrics(event["values"], event["step"])
            case "begin":
                bar = self.run.progress(event["total"], event["description"], unit=event["unit"], start=event["start"])
                self.open.append(self.bars.enter_context(bar))
            case "advance":
                if self.open:
                    self.open[-1].advance(event["amount"], **event["fields"])
            case "end":
                self.bars.close()
                self.open.clear()


def layout_of(settings: Settings) -> Layout:
    """The layout that the settings ask for. Raises UsageError where they contradict each other."""
    if settings.engine == "torch":
        if settings.world_size > 1:
            raise UsageError(f"--world-size {settings.world_size} needs --engine deepspeed: torch is one process")
        for name, size in _shared(settings).items():
            if size > 1:
                raise UsageError(f"{name} needs --engine deepspeed: torch is one process")
        return Layout()
    world_size = settings.world_size
    if not world_size and settings.host_file is not None:
        from infra.launching import read_host_file

        world_size = sum(read_host_file(settings.host_file).values())
    world_size = world_size or _local_devices(settings)
    for name, size in _shared(settings).items():
        if world_size % size:
            raise UsageError(f"{name} {size} does not divide the {world_size} processes")
    return Layout(
        engine="deepspeed", world_size=world_size, zero_stage=settings.zero_stage, offload=settings.offload,
        sequence_parallel=settings.sequence_parallel, expert_parallel=settings.expert_parallel,
    )  # fmt: skip


def _shared(settings: Settings) -> dict[str, int]:
    return {
        "--sequence-parallel": settings.sequence_parallel,
        "--expert-parallel": settings.expert_parallel,
    }


def data_layout(settings: Settings) -> Layout:
    """The layout of stages that train nothing."""
    return Layout(data_engine=settings.data_engine, ray_address=settings.ray_address)


def _local_devices(settings: Settings) -> int:
    """GPUs of this host, or one process on CPUs."""
    from infra.hardware import resolve_device

    if resolve_device(settings.device) == "cpu":
        return 1
    import torch

    return torch.cuda.device_count()


def _environment(settings: Settings) -> dict[str, str]:
    from infra.hardware import resolve_device

    root = str(Path(__file__).parent.parent)
    accelerator = {"DS_ACCELERATOR": "cpu"} if resolve_device(settings.device) == "cpu" else {}
    return {"PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))} | accelerator


__all__ = ["data_layout", "layout_of", "run_distributed"]
