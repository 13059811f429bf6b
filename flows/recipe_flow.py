"""The Prefect flow ``qwenforge``: every stage of a recipe in the report's order, each fed by those before it."""

from typing import Any

from prefect import flow
from prefect.context import FlowRunContext
from prefect.runtime import flow_run

from flows.job import Job, Outcome
from flows.tasks import run_stage


def run_recipe(job: Job) -> dict[str, Outcome]:
    """Go through ``job.stages``; what was finished before is taken from the store. Stage id -> outcome.

    Inside a flow run (one that a worker has started) the stages are its tasks.
    """

    @flow(name="qwenforge", flow_run_name=job.name, validate_parameters=False, log_prints=False)
    def qwenforge(recipe: dict[str, Any]) -> dict[str, str]:
        """``recipe`` is there for Prefect's pages: the values that the job's stages are configured with."""
        return _run_stages(job)

    with job.display.live(len(job.stages)):
        if FlowRunContext.get():
            _run_stages(job)
        else:
            qwenforge(job.recipe.model_dump(mode="json"))
    return job.outcomes


def _run_stages(job: Job) -> dict[str, str]:
    digests: dict[str, str] = {}
    ids = [stage.id for stage in job.stages]
    with job.records.run(job.name, job.recipe, job.seed, ids, flow_run.id):
        for stage in job.stages:
            inputs = {name: digests[producer] for name, producer in stage.inputs.items()}
            digests[stage.id] = run_stage(job, stage, inputs).digest
    return digests


__all__ = ["run_recipe"]
