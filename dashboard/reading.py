"""What the pages show, read through infra and cached: a page never blocks a run and never writes."""

import io
import json
from typing import Any

import pandas as pd
import streamlit as st

from infra.catalog import Catalog, Run
from infra.settings import Settings, load_settings
from infra.store import ArtifactStore, open_store
from infra.tracking.reading import curves

LIVE_SECONDS = 5
"""How old what is shown of a running run may be."""


@st.cache_resource
def settings() -> Settings:
    return load_settings()


@st.cache_resource
def catalog() -> Catalog:
    return Catalog(settings().catalog_url)


@st.cache_resource
def store() -> ArtifactStore:
    return open_store(settings())


@st.cache_data(ttl=LIVE_SECONDS)
def runs(limit: int = 1000) -> pd.DataFrame:
    """Newest first: id, name, state, started, hours, seed, error."""
    return pd.DataFrame(
        [
            {
                "id": run.id, "name": run.name, "state": run.state, "started": run.started_at,
                "minutes": _minutes(run), "seed": run.seed, "error": run.error or "",
            }
            for run in catalog().list_runs(limit)
        ]
    )  # fmt: skip


def _minutes(run: Run) -> float:
    end = run.ended_at or pd.Timestamp.now(tz="UTC").to_pydatetime()
    return (end - run.started_at).total_seconds() / 60


@st.cache_data(ttl=LIVE_SECONDS)
def stages(run_id: str) -> pd.DataFrame:
    """A run's stages in order: stage, state, seconds, artifact, mlflow_run_id, metrics, error."""
    columns = ["stage", "state", "seconds", "started", "artifact", "mlflow_run_id", "metrics", "error"]
    rows = [
        (s.stage, s.state, s.seconds, s.started_at, s.artifact_digest, s.mlflow_run_id, s.metrics, s.error or "")
        for s in catalog().stages_of(run_id)
    ]
    return pd.DataFrame(rows, columns=columns)


@st.cache_data(ttl=LIVE_SECONDS)
def metric_curves(run_ids: tuple[str, ...]) -> pd.DataFrame:
    """Long form: mlflow_run_id, metric, step, value."""
    parts = [
        pd.DataFrame({"mlflow_run_id": c.run_id, "metric": c.metric, "step": c.steps, "value": c.values})
        for c in curves(settings().tracking_uri, run_ids)
    ]
    return pd.concat(parts) if parts else pd.DataFrame(columns=["mlflow_run_id", "metric", "step", "value"])


def artifact_of(run_id: str, stage: str) -> str | None:
    """Digest of what a stage of this run has made, if it has."""
    table = stages(run_id)
    found = table.loc[table["stage"] == stage, "artifact"].dropna()
    return None if found.empty else str(found.iloc[0])


@st.cache_data
def summary(digest: str) -> dict[str, Any]:
    """Immutable, so cached for good."""
    return store().manifest(digest).summary


@st.cache_data
def files(digest: str) -> list[str]:
    return [entry.path for entry in store().manifest(digest).files]


@st.cache_data
def read_json(digest: str, path: str) -> Any:
    return json.loads(store().read(digest, path))


@st.cache_data
def read_json_lines(digest: str, path: str, limit: int = 500) -> list[dict[str, Any]]:
    return [json.loads(line) for line in store().read(digest, path).decode().splitlines()[:limit]]


@st.cache_data
def read_parquet(digest: str, path: str) -> pd.DataFrame:
    return pd.read_parquet(io.BytesIO(store().read(digest, path)))


@st.cache_data(ttl=LIVE_SECONDS)
def artifacts(kind: str) -> pd.DataFrame:
    """Newest first."""
    rows = [(a.digest, a.stage, a.created_at, a.bytes, a.summary) for a in catalog().artifacts(kind=kind)]
    return pd.DataFrame(rows, columns=["digest", "stage", "created", "bytes", "summary"])
