"""What the pages show, read through infra and cached: a page never blocks a run and never writes."""

import io
import json
from typing import Any

import pandas as pd
import streamlit as st
from pyarrow import parquet

from infra.catalog import Catalog, Reviews
from infra.catalog.gates import Gates
from infra.catalog.views import Promotion, Views
from infra.hardware import describe_host
from infra.settings import Settings, load_settings
from infra.store import ArtifactStore, open_store
from infra.tracking.reading import curves, last_values

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


@st.cache_resource
def views() -> Views:
    return Views(settings().catalog_url)


@st.cache_resource
def reviews() -> Reviews:
    return Reviews(settings().catalog_url)


@st.cache_data(ttl=LIVE_SECONDS)
def runs(limit: int = 1000) -> pd.DataFrame:
    """Newest first: id, name, state, started, minutes, seed, error."""
    rows = views().runs(limit)
    if not rows:
        return pd.DataFrame()
    table = pd.DataFrame(rows).rename(columns={"started_at": "started"})
    ended = pd.to_datetime(table.pop("ended_at"), utc=True).fillna(pd.Timestamp.now(tz="UTC"))
    table["minutes"] = (ended - pd.to_datetime(table["started"], utc=True)).dt.total_seconds() / 60
    return table.fillna({"error": ""})[["id", "name", "state", "started", "minutes", "seed", "error"]]


@st.cache_data(ttl=LIVE_SECONDS)
def stages(run_id: str) -> pd.DataFrame:
    """A run's stages in the order they were entered; progress and seconds_left are of what runs now."""
    columns = [
        "stage", "state", "seconds", "started", "artifact", "mlflow_run_id", "cache_key", "error", "doing", "progress",
        "seconds_left",
    ]  # fmt: skip
    rows = [
        (s.stage, s.state, s.seconds, s.started_at, s.artifact_digest, s.mlflow_run_id, s.cache_key, s.error or "",
         s.doing, s.progress, s.seconds_left)
        for s in catalog().stages_of(run_id)
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=columns, dtype=object)  # pandas' own text type would turn None into a true NaN
    return table.astype({"seconds": float, "progress": float, "seconds_left": float})


@st.cache_resource
def gates() -> Gates:
    return Gates(settings().catalog_url)


@st.cache_data
def host() -> dict[str, Any]:
    """Facts about this machine."""
    return describe_host()


@st.cache_data(ttl=60)
def typical_seconds(recipe: str) -> dict[str, float]:
    """What each stage of a recipe took lately."""
    return views().typical_seconds(recipe)


@st.cache_data(ttl=LIVE_SECONDS)
def edges(digests: tuple[str, ...]) -> list[tuple[str, str]]:
    """(parent, child) among artifacts."""
    return views().edges_among(digests)


@st.cache_data(ttl=LIVE_SECONDS, max_entries=64)
def metric_curves(mlflow_runs: tuple[str, ...], metrics: tuple[str, ...]) -> pd.DataFrame:
    """Long form: mlflow_run_id, metric, step, value. Fewer points a run where many are laid over one another."""
    points = max(80, min(400, 4000 // max(1, len(mlflow_runs))))
    parts = [
        pd.DataFrame({"mlflow_run_id": c.run_id, "metric": c.metric, "step": c.steps, "value": c.values})
        for c in curves(settings().tracking_uri, mlflow_runs, points, metrics=metrics)
    ]
    return pd.concat(parts) if parts else pd.DataFrame(columns=["mlflow_run_id", "metric", "step", "value"])


@st.cache_data(ttl=LIVE_SECONDS, max_entries=64)
def metric_values(mlflow_runs: tuple[str, ...]) -> pd.DataFrame:
    """The last point of every metric: mlflow_run_id, metric, value."""
    found = last_values(settings().tracking_uri, mlflow_runs)
    return pd.DataFrame(found, columns=["mlflow_run_id", "metric", "value"])


@st.cache_data(ttl=LIVE_SECONDS)
def aliases() -> dict[str, str]:
    """What every alias means now."""
    return catalog().aliases()


@st.cache_data(ttl=LIVE_SECONDS)
def promotions() -> list[Promotion]:
    return list(views().promotions())


@st.cache_data(ttl=LIVE_SECONDS)
def checkpoints() -> pd.DataFrame:
    """Newest first, and those behind an alias: digest, stage, created_at, bytes, final_loss, alias."""
    now = {digest: alias for alias, digest in aliases().items()}
    columns = ["digest", "stage", "created_at", "bytes", "final_loss"]
    table = pd.DataFrame(views().checkpoints(300, digests=now), columns=columns)
    table["alias"] = [now.get(digest, "") for digest in table["digest"]]
    return table


@st.cache_data(ttl=LIVE_SECONDS)
def live_rollouts(cache_key: str, limit: int = 50) -> dict[int, dict[str, Any]]:
    """The latest rollouts of GRPO while it trains on this machine, from where it keeps what a kill must not lose."""
    folder = settings().home / "work" / cache_key / "state" / "rollouts"
    return {int(path.stem): json.loads(path.read_text()) for path in sorted(folder.glob("[0-9]*.json"))[-limit:]}


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
def known_summary(digest: str) -> dict[str, Any]:
    """The same from the catalog, which remembers artifacts that are no longer in the store."""
    return views().artifact_summary(digest)


@st.cache_data
def file_table(digest: str) -> pd.DataFrame:
    """file, bytes, sha256 of what an artifact consists of."""
    rows = [(entry.path, entry.size, entry.sha256) for entry in store().manifest(digest).files]
    return pd.DataFrame(rows, columns=["file", "bytes", "sha256"])


@st.cache_data
def files(digest: str) -> list[str]:
    return [entry.path for entry in store().manifest(digest).files]


@st.cache_data
def read_json(digest: str, path: str) -> Any:
    return json.loads(store().read(digest, path))


@st.cache_data
def read_json_lines(digest: str, path: str, limit: int = 500) -> list[dict[str, Any]]:
    return [json.loads(line) for line in store().read(digest, path).decode().splitlines()[:limit]]


@st.cache_data(max_entries=32)
def read_parquet(digest: str, path: str) -> pd.DataFrame:
    return pd.read_parquet(io.BytesIO(store().read(digest, path)))


@st.cache_data(max_entries=8)
def read_parquet_head(digest: str, path: str, rows: int) -> pd.DataFrame:
    """The first rows; empty where the artifact has no such file."""
    if path not in files(digest):
        return pd.DataFrame()
    file = parquet.ParquetFile(io.BytesIO(store().read(digest, path)))
    return next(file.iter_batches(batch_size=rows)).to_pandas() if file.metadata.num_rows else pd.DataFrame()
