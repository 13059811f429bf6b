"""The one adapter: turns any stage into a Prefect task that is cached, retried, timed and written down."""

import errno
import time
from collections.abc import Mapping
from typing import Any

from prefect import Task
from prefect.context import FlowRunContext
from prefect.tasks import exponential_backoff
from pydantic import BaseModel

from components.stage import Artifact
from flows.distributed import data_layout, layout_of, run_distributed
from flows.errors import StageFailed
from flows.job import Job, Outcome
from flows.stage_run import StageRun, workspace
from flows.stages import ACCELERATOR, Stage, cache_key, config_digest
from flows.terminal import headline
from infra.launching import RankFailed

RETRIES = 3
BACKOFF = 2.0  # seconds before the first retry; doubles each time

_TRANSIENT = {
    errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.EIO, errno.ESTALE, errno.ENETDOWN, errno.ENETUNREACH,
    errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED,
    errno.ETIMEDOUT, errno.EPIPE,
}  # fmt: skip


def run_stage(job: Job, stage: Stage, inputs: Mapping[str, str]) -> Outcome:
    """Have ``stage`` done for ``inputs`` (name -> digest): by the store, by Prefect's cache or by running it.

    Runs in this thread, so that Ctrl-C reaches the stage. Raises StageFailed with the root cause.
    """
    config = stage.config(job.recipe)
    key = cache_key(stage, config, job.seed, inputs)
    known = None if stage.id in job.redo else job.store.recall(key)
    job.running = stage.id
    job.display.stage_begins(stage.id, len(job.outcomes) + 1, len(job.stages))
    started = time.perf_counter()
    attempt = _Attempt(job, stage, config, key, known)
    task: Task[..., str] = Task(
        attempt.run,
        name=stage.id,
        version=str(stage.version),
        tags={ACCELERATOR} if stage.computes and known is None else None,
        persist_result=True,
        cache_key_fn=lambda context, parameters: key,
        # What counts is what the store holds: a result that Prefect remembers of a deleted artifact is stale.
        refresh_cache=known is None,
        retries=RETRIES,
        retry_delay_seconds=exponential_backoff(BACKOFF),
        retry_jitter_factor=0.5,
        retry_condition_fn=lambda task, task_run, state: attempt.error is not None and is_transient(attempt.error),
    )
    try:
        digest = task(dict(inputs))
    except Exception as error:
        # Prefect's own bookkeeping may fail after the stage did (a full disk): the first error is the cause.
        raise StageFailed(stage.id, attempt.error or error) from (attempt.error or error)
    seconds = time.perf_counter() - started
    summary = job.store.manifest(digest).summary
    outcome = Outcome(stage.id, digest, "cached" if known else "done", seconds, summary)
    if known:
        job.records.stage_cached(stage, key, digest)
    job.display.stage_ends(stage.id, outcome.state, seconds, headline(summary))
    job.outcomes[stage.id] = outcome
    return outcome


class _Attempt:
    """The body of the task. Keeps the stage's own error apart from whatever Prefect raises later."""

    def __init__(self, job: Job, stage: Stage, config: BaseModel, key: str, known: str | None) -> None:
        self.job, self.stage, self.config, self.key, self.known = job, stage, config, key, known
        self.error: BaseException | None = None

    def run(self, inputs: dict[str, str]) -> str:
        """Digest of the stage's artifact."""
        if self.known:
            return self.known
        self.error = None
        try:
            return self._run(inputs)
        except BaseException as error:
            self.error = error
            raise

    def _run(self, inputs: dict[str, str]) -> str:
        job, stage = self.job, self.stage
        artifacts: dict[str, Artifact] = {name: job.store.open(digest) for name, digest in inputs.items()}
        fresh = stage.id in job.redo
        with (
            job.records.stage(stage, self.config, self.key, inputs) as record,
            workspace(job.settings.home, self.key, fresh=fresh) as (output, state),
        ):
            place = data_layout(job.settings)

            def report(doing: str, share: float, seconds_left: float | None) -> bool:
                pause_if_asked()
                return record.progress(doing, share, seconds_left)

            run = StageRun(job.seed, output, state, job.settings.device, job.display, record.metrics, place, report)
            started = time.perf_counter()
            if stage.trains and job.settings.engine != "torch":
                run.layout = layout_of(job.settings)
                summary = run_distributed(stage, self.config, artifacts, run, job.settings)
            else:
                summary = stage.load()(self.config, artifacts, run)
            seconds = time.perf_counter() - started
            artifact = job.store.commit(
                output,
                kind=stage.kind,
                stage=stage.id,
                stage_version=str(stage.version),
                config_digest=config_digest(self.config),
                inputs=inputs,
                seed=job.seed,
                summary=summary,
            )
            job.store.remember(self.key, artifact.digest)
            record.finish(artifact.digest, seconds)
        return artifact.digest


def pause_if_asked() -> None:
    """Raise Prefect's own signal where somebody has suspended this run on its page: the stage stops as by Ctrl-C."""
    context = FlowRunContext.get()
    # Prefect asks between tasks by itself, from 3.9 on; a stage may take days
    request = getattr(context, "flow_run_suspension_request", None)
    if request is not None:
        request.raise_if_requested()


def is_transient(error: BaseException) -> bool:
    """Whether trying again may help: a network hiccup, a rank that died; not a full disk or a missing file."""
    chain: list[Any] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__
    return any(
        isinstance(link, ConnectionError | TimeoutError | RankFailed)
        or (isinstance(link, OSError) and link.errno in _TRANSIENT)
        or any(base.__name__ == "TransportError" and base.__module__.startswith("httpx") for base in type(link).__mro__)
        for link in chain
    )


__all__ = ["is_transient", "run_stage"]
