"""The flow that Prefect's workers run: a whole recipe, or part of it, with parameters that its UI can edit.

``qwenforge deploy`` registers it. It does what ``qwenforge run`` does, in the flow run that the worker has started.
"""

from io import TextIOBase
from pathlib import Path
from typing import Annotated, Any

from prefect import flow, get_run_logger
from prefect.runtime import flow_run
from pydantic import Field
from rich.console import Console

from flows.errors import Stopped
from flows.pipelines import STAGE_NAMES
from flows.terminal import Display

# a drop-down in the UI
_StageName = Annotated[str, Field(json_schema_extra={"enum": ["", *STAGE_NAMES]})]


def _run_name() -> str:
    started = flow_run.scheduled_start_time
    return f"{Path(flow_run.parameters['recipe']).stem}-{started:%Y%m%d-%H%M%S}"


@flow(name="qwenforge", flow_run_name=_run_name)
def qwenforge(
    recipe: str,
    overrides: list[str] = [],  # noqa: B006 (never changed; Prefect shows it)
    until: _StageName = "",
    redo_from: _StageName = "",
    fresh: bool = False,
    promote: str = "",
) -> dict[str, str]:
    """Carry a recipe through its stages; what is finished already is not repeated.

    Args:
        recipe: Recipe file, on the worker's machine.
        overrides: Values to change, each as table.key=value, such as sft.epochs=2.
        until: Stop after this stage.
        redo_from: Redo this stage and all that follow.
        fresh: Redo every stage, whatever is cached.
        promote: Alias that is to mean the last checkpoint, unless the gate finds it worse. The run then fails.

    Returns:
        Stage -> digest of its artifact.
    """
    from flows.promotion import Refused, promote_command
    from flows.run_command import last_checkpoint, recipe_stages, run_command
    from flows.run_page import publish, publish_gate
    from flows.worker import alive
    from infra.settings import load_settings

    display = Display(Console(file=_RunLog(get_run_logger()), highlight=False, width=200))  # type: ignore[arg-type]
    settings = load_settings()
    promoted = last_checkpoint(recipe_stages(Path(recipe), overrides, until, redo_from), promote) if promote else ""
    result: dict[str, Any] = {}
    try:
        with alive(settings.home, flow_run.id):
            result = run_command(
                Path(recipe), overrides, until=until, from_=redo_from, fresh=fresh, display=display,
                run_name=flow_run.name,
            )  # fmt: skip
    except Stopped as stop:
        # Prefect's own signal: it knows whether this was a cancellation.
        raise stop.__cause__ or stop from None
    finally:
        publish(settings, flow_run.id, result.get("report"))
    if promote:
        try:
            publish_gate(promote_command(result["stages"][promoted], promote, display=display))
        except Refused as refused:
            publish_gate(refused.figures)
            raise
    return result["stages"]


class _RunLog(TextIOBase):
    """A text file whose lines are log lines of the flow run."""

    def __init__(self, logger: Any) -> None:
        self._logger, self._rest = logger, ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if line.strip():
                self._logger.info(line.rstrip())
        return len(text)


__all__ = ["qwenforge"]
