"""``qwenforge run``: check everything, show the plan, go through the stages, write the report card."""

import os
import signal
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from flows.errors import StageFailed, Stopped, UsageError
from flows.preflight import preflight
from flows.resolve import Resolved, resolve
from flows.stages import Stage, after, through
from flows.terminal import Display, duration, forward_logs, table
from infra.settings import Settings, load_settings
from infra.store import ArtifactStore, open_store


def run_command(
    path: Path, overrides: Sequence[str] = (), *, until: str = "", from_: str = "", fresh: bool = False,
    place: Mapping[str, Any] | None = None, display: Display | None = None, run_name: str = "", promote: str = "",
) -> dict[str, Any]:  # fmt: skip
    """Run the recipe at ``path``; returns what ``--json`` prints. Nothing starts before all checks have passed.

    ``place``: settings that the command line has given, which go before those of the environment.
    ``run_name``: by default the recipe's name and the time. ``promote``: alias for the last checkpoint; raises
    ``flows.promotion.Refused`` where the gate finds it worse, after everything else is done.
    """
    from flows.distributed import layout_of
    from flows.pipelines import pipeline_of
    from flows.recipe import load_recipe
    from flows.start import check, locate

    recipe = load_recipe(path, overrides)
    pipeline = pipeline_of(recipe)
    stages = choose_stages(pipeline, until, from_)
    last = last_checkpoint(stages, promote) if promote else ""
    settings = run_settings().model_copy(update=dict(place or {}))
    layout_of(settings)  # what does not fit together must not show hours later
    recipe = locate(recipe, settings, open_store(settings))
    check(recipe)
    display = display or Display()
    redo = {stage.id for stage in stages} if fresh else after(stages, from_) if from_ else set()
    result = run_pipeline(
        recipe, recipe.name, recipe.seed, stages, settings, display, redo, command=f"{path}", run_name=run_name
    )
    result = {"recipe": recipe.name} | result | show_card(settings, display, result["stages"].get("report"))
    if promote:
        from flows.promotion import promote_command

        result["promotion"] = promote_command(result["stages"][last], promote, display=display)
    return result


def recipe_stages(path: Path, overrides: Sequence[str], until: str, from_: str) -> tuple[Stage, ...]:
    """The stages that ``run_command`` would go through."""
    from flows.pipelines import pipeline_of
    from flows.recipe import load_recipe

    return choose_stages(pipeline_of(load_recipe(path, overrides)), until, from_)


def last_checkpoint(stages: Sequence[Stage], alias: str) -> str:
    """The stage whose checkpoint a run promotes to ``alias``."""
    from flows.promotion import check_alias

    check_alias(alias)
    made = [stage.id for stage in stages if stage.kind == "checkpoint"]
    if not made:
        raise UsageError(f"--promote {alias}: no stage up to {stages[-1].id} makes a checkpoint")
    return made[-1]


def show_card(settings: Settings, display: Display, report: str | None) -> dict[str, Any]:
    """Write the report card, unless it is there; show every checkpoint's scores and where the card is."""
    if report is None:
        return {}
    from flows.report import card_of, print_scores

    store = open_store(settings)
    card = card_of(settings, store, report)
    print_scores(display, store.open(report).path)
    if card is None:  # made with another catalog: the store alone knows it
        card = {"html": str(store.open(report).path / "report.html")}
    display.console.print(f"report card: {card['html']}")
    return {"report": card}


def run_pipeline(
    recipe: BaseModel, name: str, seed: int, stages: Sequence[Stage], settings: Settings, display: Display,
    redo: Collection[str] = (), command: str = "", run_name: str = "",
) -> dict[str, Any]:  # fmt: skip
    """Have all ``stages`` done. Knows nothing about which stages these are.

    Raises StageFailed or Stopped with a line that says how to carry on.
    """
    forward_logs(display)
    store = open_store(settings)
    preflight(settings, store)
    plan = resolve(stages, recipe, seed, store, redo)
    digests = {row.stage.id: row.digest for row in plan if row.digest}
    if len(digests) == len(stages):
        display.line(f"all {len(plan)} stages are finished already: nothing to do")
        return {"run": "", "stages": digests, "cached": list(digests), "seconds": {}}
    show_plan(display, name, plan)
    run_name = run_name or f"{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    return execute(recipe, run_name, seed, stages, settings, store, display, redo, command)


def execute(
    recipe: BaseModel, run_name: str, seed: int, stages: Sequence[Stage], settings: Settings, store: ArtifactStore,
    display: Display, redo: Collection[str], command: str,
) -> dict[str, Any]:  # fmt: skip
    """Go through the stages inside Prefect, with everything written down."""
    from flows.prefect_local import prefect_api

    started = time.perf_counter()
    if settings.threads:
        os.environ["OMP_NUM_THREADS"] = str(settings.threads)  # read by torch when a stage imports it
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # its advice is not for the reader of a run
    with sigterm_as_interrupt(), prefect_api(settings):
        from flows.job import Job
        from flows.recipe_flow import run_recipe
        from flows.records import Records

        # Not before Prefect is up: both make their databases with Alembic, whose state is global to the process.
        records = Records(settings, store)
        job = Job(run_name, recipe, seed, stages, settings, store, records, display, redo)
        try:
            outcomes = run_recipe(job)
        except StageFailed as error:
            raise StageFailed(error.stage, error.cause, _hint(command)) from error.cause
        except BaseException as error:
            if isinstance(error, Exception | SystemExit):
                raise
            # Ctrl-C or SIGTERM, perhaps in the form that Prefect gives it.
            where = f"in stage {job.running}" if job.running else "before the first stage"
            raise Stopped(f"stopped {where}; {_hint(command)}") from error
        finally:
            records.close()
    display.line(f"{len(outcomes)} stages in {duration(time.perf_counter() - started)}")
    return {
        "run": records.run_id,
        "stages": {stage: outcome.digest for stage, outcome in outcomes.items()},
        "cached": [stage for stage, outcome in outcomes.items() if outcome.state == "cached"],
        "seconds": {stage: round(outcome.seconds, 3) for stage, outcome in outcomes.items()},
    }


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Inside the block SIGTERM (a scheduler's or a container's way to stop) ends the run as Ctrl-C does."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    here = threading.current_thread() is threading.main_thread()
    # Prefect handles the signal itself in a run that its worker has started: it may be a cancellation.
    if not here or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def choose_stages(pipeline: Sequence[Stage], until: str, from_: str) -> tuple[Stage, ...]:
    """The stages that lead to ``until`` (all by default). Raises UsageError for an unknown stage."""
    ids = [stage.id for stage in pipeline]
    for option, stage in (("--until", until), ("--from", from_)):
        if stage and stage not in ids:
            raise UsageError(f"{option} {stage}: no such stage; stages are {', '.join(ids)}")
    chosen = through(pipeline, until) if until else tuple(pipeline)
    if from_ and from_ not in {stage.id for stage in chosen}:
        raise UsageError(f"--from {from_}: this stage does not lead to --until {until}")
    return chosen


def run_settings() -> Settings:
    """The environment's settings; the number of threads takes effect here, before any library starts its own."""
    settings = load_settings()
    if settings.threads:
        os.environ["OMP_NUM_THREADS"] = str(settings.threads)
    return settings


def show_plan(display: Display, name: str, plan: Sequence[Resolved]) -> None:
    """What is done and what there is to do, before it starts."""
    cached = [row.stage.id for row in plan if row.digest]
    waiting = [row.stage.id for row in plan if not row.digest]
    rows = [["cached", len(cached), " ".join(cached)]] if cached else []
    rows.append(["to do", len(waiting), " ".join(waiting)])
    display.console.print(table(f"recipe {name}", {"": "left", "stages": "right", " ": "left"}, rows))


def _hint(command: str) -> str:
    return f"finished stages are kept, run the same command to carry on: qwenforge run {command}"


__all__ = [
    "choose_stages",
    "last_checkpoint",
    "recipe_stages",
    "run_command",
    "run_pipeline",
    "run_settings",
    "show_plan",
]
