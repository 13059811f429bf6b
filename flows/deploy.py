"""``qwenforge deploy``: a recipe as a Prefect deployment, to be started by a schedule, the UI or the API."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from flows import pools
from flows.errors import UsageError
from flows.notify import find_block, tell_on_failure
from flows.pipelines import pipeline_of
from flows.recipe import load_recipe
from flows.run_command import choose_stages, last_checkpoint
from flows.stages import ACCELERATOR
from flows.watch import TAG, check_prefix
from infra.errors import InfraError
from infra.settings import load_settings
from infra.stack import POOL, read_place

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def deploy_command(
    path: Path, overrides: Sequence[str] = (), *, until: str = "", from_: str = "", cron: str = "", interval: str = "",
    watch: str = "", pool: str = POOL, accelerators: int | None = None, notify: Sequence[str] = (), promote: str = "",
) -> dict[str, Any]:  # fmt: skip
    """Create or update the deployment ``qwenforge/<recipe's name>``; returns what ``--json`` prints.

    For the pools ``docker`` and ``kubernetes`` the base job template is written first, also where there is no server.
    Raises RecipeError or UsageError for what could not run later.
    """
    recipe = load_recipe(path, overrides)
    stages = choose_stages(pipeline_of(recipe), until, from_)
    if promote:
        last_checkpoint(stages, promote)
    if cron and interval:
        raise UsageError("give --cron or --interval, not both")
    every = parse_interval(interval) if interval else None
    watched = check_prefix(watch) if watch else ""
    made: dict[str, Any] = {"deployment": "", "pool": pool}
    if pool in pools.KINDS:
        settings = load_settings()
        template = pools.base_job_template(pool, settings, accelerators or 0)
        made["template"] = str(pools.write_template(pool, template, settings.home))
        if not find_api_url():
            return made
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "ERROR")  # read when Prefect is imported
    with prefect_client() as client:
        # everything is looked up before anything is changed
        blocks = [(name, find_block(client, name)) for name in notify]
        if pool in pools.KINDS:
            made["secrets"] = pools.save_secrets(settings)
            pools.ensure_pool(client, pool, template)
        else:
            _check_pool(client, pool)
        parameters = {
            "recipe": recipe_path(path, pool), "overrides": list(overrides), "until": until, "redo_from": from_,
            "fresh": False, "promote": promote,
        }  # fmt: skip
        deployment_id = _register(recipe, parameters, pool, cron, every, watched)
        name = f"qwenforge/{recipe.name}"
        tell_on_failure(client, deployment_id, name, blocks)
        if accelerators is not None:
            _limit_accelerators(client, accelerators)
    return made | {
        "deployment": name, "id": str(deployment_id), "schedule": cron or interval, "watch": watched,
        "notify": list(notify), "url": f"{api_url().removesuffix('/api')}/deployments/deployment/{deployment_id}",
    }  # fmt: skip


def print_deployment(made: dict[str, Any]) -> None:
    """What was made, and what is left to do."""
    if template := made.get("template"):
        print(f"base job template of the pool: {template}")
    if made["deployment"]:
        print(made["deployment"], made["url"], sep="\n")
        return
    kind = made["pool"]
    print(f"no Prefect server: start one and deploy again, or prefect work-pool create {kind} --type {kind} "
          f"--base-job-template {template}")  # fmt: skip


def recipe_path(path: Path, pool: str) -> str:
    """Where the run finds the recipe: in a container that is the image's checkout, its working directory."""
    if pool not in pools.KINDS:
        return str(path.absolute())
    checkout = Path(__file__).parents[1]
    if not path.absolute().is_relative_to(checkout):
        raise UsageError(f"{path} is not in the checkout {checkout}, which the image of pool {pool} is built from")
    return str(path.absolute().relative_to(checkout))


def _register(
    recipe: Any, parameters: dict[str, Any], pool: str, cron: str, every: timedelta | None, watched: str
) -> UUID:  # fmt: skip
    from prefect.deployments.runner import EntrypointType, RunnerDeployment

    from flows.deployment import qwenforge

    # relative paths of a recipe's values mean the same as here; a container starts in its checkout
    place = {} if pool in pools.KINDS else {"working_dir": str(Path.cwd())}
    try:
        deployment = RunnerDeployment.from_flow(
            qwenforge, name=recipe.name, cron=cron or None, interval=every, parameters=parameters,
            description=recipe.description or None, work_pool_name=pool, concurrency_limit=1, job_variables=place,
            tags=[f"{TAG}{watched}"] if watched else [], entrypoint_type=EntrypointType.MODULE_PATH,
        )  # fmt: skip
    except ValueError as error:
        raise UsageError(f"--cron {cron!r}: {_first_line(error)}; expected five fields such as '0 3 * * *'") from None
    deployment_id = deployment.apply()
    assert isinstance(deployment_id, UUID)  # outside an event loop it waits
    return deployment_id


def _limit_accelerators(client: Any, number: int) -> None:
    """Stages that compute on an accelerator, of all runs together: at most ``number`` at once."""
    from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, GlobalConcurrencyLimitUpdate
    from prefect.exceptions import ObjectNotFound

    name = f"tag:{ACCELERATOR}"
    try:
        client.read_global_concurrency_limit_by_name(name)
    except ObjectNotFound:
        if number:
            client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=number))
        return
    if number:
        client.update_global_concurrency_limit(name, GlobalConcurrencyLimitUpdate(limit=number))
    else:
        client.delete_global_concurrency_limit_by_name(name)


@contextmanager
def prefect_client() -> Iterator[Any]:
    """A client of the Prefect server that there is. UsageError without any, InfraError where it does not answer."""
    os.environ["PREFECT_API_URL"] = api = api_url()

    import httpx
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    try:
        with temporary_settings({PREFECT_API_URL: api}), get_client(sync_client=True) as client:
            yield client
    except (httpx.TransportError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "Failed to reach API" not in str(error):
            raise
        raise InfraError(f"cannot reach Prefect at {api}: {error}; is it up? qwenforge stack status") from None


def find_api_url() -> str:
    """``PREFECT_API_URL``, or the API of the stack under this home; empty where there is neither."""
    if url := os.environ.get("PREFECT_API_URL"):
        return url
    place = read_place(load_settings().home)
    return place.client_environment()["PREFECT_API_URL"] if place else ""


def api_url() -> str:
    """The same, and UsageError where there is none."""
    if not (url := find_api_url()):
        raise UsageError("no Prefect server: start one with qwenforge stack up, or set PREFECT_API_URL")
    return url


def parse_interval(text: str) -> timedelta:
    """``90m``, ``6h``, ``1d``."""
    match = re.fullmatch(r"(\d+)([smhd])", text.strip())
    if match is None or not int(match[1]):
        raise UsageError(f"--interval {text}: expected a number and a unit of s, m, h or d, such as 6h")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _check_pool(client: Any, pool: str) -> None:
    from prefect.exceptions import ObjectNotFound

    try:
        client.read_work_pool(pool)
    except ObjectNotFound:
        known = ", ".join(found.name for found in client.read_work_pools()) or "there is none"
        raise UsageError(
            f"--pool {pool}: no such work pool ({known}); make one: prefect work-pool create --type process {pool}, or "
            f"take {' or '.join(pools.KINDS)}"
        ) from None


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


__all__ = ["api_url", "deploy_command", "parse_interval", "prefect_client", "print_deployment"]
