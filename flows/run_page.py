"""What a deployed run's page in Prefect shows under Artifacts, however it has ended: stages, links, report card."""

import logging
from pathlib import Path
from typing import Any

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from flows.errors import describe
from infra.catalog import Catalog
from infra.catalog.models import Run, Stage
from infra.settings import Settings

log = logging.getLogger(__name__)


def publish(settings: Settings, flow_run_id: str, card: dict[str, Any] | None) -> None:
    """Write the artifacts of a flow run. What cannot be written is a warning: the run itself is done."""
    try:
        catalog = Catalog(settings.catalog_url)
        run = catalog.run_of_flow(flow_run_id)
        if run is None:  # it ended before anything was entered
            return
        rows = [row_of(stage) for stage in catalog.stages_of(run.id)]
        create_table_artifact(rows, key="stages", description=f"Run {run.id}: what each stage has made.")
        for key, link, text in links(settings, run):
            create_link_artifact(link, link_text=text, key=key)
        if card:
            create_markdown_artifact(Path(card["markdown"]).read_text(encoding="utf-8"), key="report-card")
    except Exception as error:
        log.warning("the run's page in Prefect is not complete: %s", describe(error))


def row_of(stage: Stage) -> dict[str, Any]:
    seconds = "" if stage.seconds is None or stage.state == "cached" else round(stage.seconds, 1)
    return {
        "stage": stage.stage, "state": stage.state, "seconds": seconds, "artifact": stage.artifact_digest or "",
        "attempts": stage.attempts, "error": stage.error or "",
    }  # fmt: skip


def links(settings: Settings, run: Run) -> list[tuple[str, str, str]]:
    """(key, address, text) of the run's pages elsewhere."""
    found = []
    if settings.dashboard_url:
        found.append(("dashboard", f"{settings.dashboard_url}/?run={run.id}", "This run in the dashboard"))
    if settings.tracking_uri.startswith("http") and run.mlflow_run_id:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        try:
            experiment = MlflowClient(settings.tracking_uri).get_run(run.mlflow_run_id).info.experiment_id
        except MlflowException as error:
            log.warning("no link to MLflow: %s", error)
        else:
            address = (
                f"{settings.mlflow_ui_url or settings.tracking_uri}/#/experiments/{experiment}/runs/{run.mlflow_run_id}"
            )
            found.append(("mlflow", address, "This run in MLflow"))
    return found


def publish_gate(done: dict[str, Any]) -> None:
    """The promotion that a run has ended with."""
    rows = [
        {
            "metric": row["metric"], "difference": row["difference"]["value"], "low": row["difference"]["low"],
            "high": row["difference"]["high"], "p worse (Holm)": row["worse_p_holm"],
            "worse": row["metric"] in done["worse"],
        }
        for row in done["differences"]
    ]  # fmt: skip
    verdict = f"{done['alias']}: {str(done['from'])[:12]} to {done['to'][:12]} {done.get('verdict', 'unchanged')}"
    try:
        create_table_artifact(rows, key="gate", description=verdict)
    except Exception as error:
        log.warning("the gate's figures are not on the run's page: %s", describe(error))


__all__ = ["publish", "publish_gate"]
