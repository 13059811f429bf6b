"""``qwenforge deploy``: a recipe as a Prefect deployment, to be started by a schedule, the UI or the API."""

import os
import re
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from flows.errors import UsageError
from flows.pipelines import pipeline_of
from flows.recipe import load_recipe
from flows.run_command import choose_stages
from infra.errors import InfraError
from infra.settings import load_settings
from infra.stack import read_place

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def deploy_command(
    path: Path, overrides: Sequence[str] = (), *, until: str = "", from_: str = "", cron: str = "", interval: str = "",
    pool: str = "",
) -> dict[str, Any]:  # fmt: skip
    """Create or update the deployment ``qwenforge/<recipe's name>``; returns what ``--json`` prints.

    Raises RecipeError or UsageError for what could not run later.
    """
    recipe = load_recipe(path, overrides)
    choose_stages(pipeline_of(recipe), until, from_)
    if cron and interval:
        raise UsageError("give --cron or --interval, not both")
    every = parse_interval(interval) if interval else None
    os.environ["PREFECT_API_URL"] = api = api_url()
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "ERROR")  # read when Prefect is imported

    from prefect.client.orchestration import get_client
    from prefect.deployments.runner import EntrypointType, RunnerDeployment
    from prefect.exceptions import ObjectNotFound
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.deployment import qwenforge

    parameters = {
        "recipe": str(path.absolute()), "overrides": list(overrides), "until": until, "redo_from": from_,
        "fresh": False,
    }  # fmt: skip
    try:
        deployment = RunnerDeployment.from_flow(
            qwenforge, name=recipe.name, cron=cron or None, interval=every, parameters=parameters,
            description=recipe.description or None, work_pool_name=pool, concurrency_limit=1,
            # relative paths of a recipe's values mean the same as here
            job_variables={"working_dir": str(Path.cwd())}, entrypoint_type=EntrypointType.MODULE_PATH,
        )  # fmt: skip
    except ValueError as error:
        raise UsageError(f"--cron {cron!r}: {_first_line(error)}; expected five fields such as '0 3 * * *'") from None
    with temporary_settings({PREFECT_API_URL: api}):
        with get_client(sync_client=True) as client:
            _check_pool(client, pool, api, ObjectNotFound)
        deployment_id = deployment.apply()
    return {
        "deployment": f"{qwenforge.name}/{recipe.name}",
        "id": str(deployment_id),
        "url": f"{api.removesuffix('/api')}/deployments/deployment/{deployment_id}",
        "pool": pool,
        "schedule": cron or interval,
    }


def api_url() -> str:
    """``PREFECT_API_URL``, or the API of the stack under this home."""
    if url := os.environ.get("PREFECT_API_URL"):
        return url
    place = read_place(load_settings().home)
    if place is None:
        raise UsageError("no Prefect server: start one with qwenforge stack up, or set PREFECT_API_URL")
    return place.client_environment()["PREFECT_API_URL"]


def parse_interval(text: str) -> timedelta:
    """``90m``, ``6h``, ``1d``."""
    match = re.fullmatch(r"(\d+)([smhd])", text.strip())
    if match is None or not int(match[1]):
        raise UsageError(f"--interval {text}: expected a number and a unit of s, m, h or d, such as 6h")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _check_pool(client: Any, pool: str, api: str, absent: type[Exception]) -> None:
    import httpx

    try:
        client.read_work_pool(pool)
    except absent:
        known = ", ".join(found.name for found in client.read_work_pools()) or "there is none"
        raise UsageError(
            f"--pool {pool}: no such work pool ({known}); make one: prefect work-pool create --type process {pool}"
        ) from None
    except httpx.HTTPError as error:
        raise InfraError(f"cannot reach Prefect at {api}: {error}; is it up? qwenforge stack status") from None


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


__all__ = ["api_url", "deploy_command", "parse_interval"]
