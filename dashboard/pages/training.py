"""Curves of every training stage, live, of this run and of others beside it."""

import altair as alt
import pandas as pd
import streamlit as st

from dashboard import reading

TRAINED = ("pretrain", "extend", "sft", "dpo", "reward", "grpo")
FIRST = ("loss", "reward", "heldout_pass_rate", "accuracy", "grad_norm", "learning_rate")
"""Metrics that are shown without being asked for, where a stage has them."""


def show(run_id: str) -> None:
    stages = reading.stages(run_id)
    started = [name for name in TRAINED if (stages.loc[stages["stage"] == name, "mlflow_run_id"].notna()).any()]
    cached = [s for s in TRAINED if s not in started and reading.artifact_of(run_id, s)]
    if not started and not cached:
        st.info("No training stage of this run has begun. Its curves appear here while it trains.")
        return
    names = [name for name in TRAINED if name in (*started, *cached)]
    asked = st.query_params.get("stage", names[-1])
    stage = st.segmented_control("Stage", names, default=asked if asked in names else names[-1]) or names[-1]
    st.query_params["stage"] = stage
    others = reading.runs()
    others = others[(others["id"] != run_id)].head(50)
    labels = {row.id: f"{row.name} · {row.started:%d %b %H:%M}" for row in others.itertuples()}
    compared = st.multiselect("Compare with", list(labels), format_func=lambda other: labels[other])
    draw(run_id, stage, tuple(compared))


@st.fragment(run_every=reading.LIVE_SECONDS)
def draw(run_id: str, stage: str, compared: tuple[str, ...]) -> None:
    parts = [history(run, stage) for run in (run_id, *compared)]
    points = pd.concat([part for part in parts if not part.empty]) if any(len(p) for p in parts) else pd.DataFrame()
    if points.empty:
        st.info("Nothing has been measured yet.")
        return
    metrics = sorted(points["metric"].unique(), key=lambda m: (FIRST.index(m) if m in FIRST else len(FIRST), m))
    shown = st.multiselect("Metrics", metrics, default=[m for m in metrics if m in FIRST] or metrics[:2])
    columns = st.columns(2)
    for index, metric in enumerate(shown):
        part = points[points["metric"] == metric]
        with columns[index % 2]:
            st.altair_chart(line(part, metric), width="stretch")
    spikes = find_spikes(points[points["metric"] == "loss"])
    if len(spikes):
        st.warning(f"The loss jumped at step {', '.join(str(step) for step in spikes['step'])}.")


def history(run_id: str, stage: str) -> pd.DataFrame:
    """Long form run, metric, step, value: from MLflow, or from the checkpoint where this run found it in the cache."""
    stages = reading.stages(run_id)
    row = stages[stages["stage"] == stage]
    if row.empty:
        return pd.DataFrame()
    tracked = row["mlflow_run_id"].iloc[0]
    points = reading.metric_curves((tracked,)) if tracked else pd.DataFrame()
    digest = row["artifact"].iloc[0]
    if points.empty and digest and "training.json" in reading.files(digest):
        rows = pd.DataFrame(reading.read_json(digest, "training.json")["history"])
        points = rows.melt("step", var_name="metric", value_name="value").dropna()
    if points.empty:
        return points
    counts = points.groupby("metric")["step"].transform("count")
    return points[counts > 1].assign(run=run_id[:8])


def line(points: pd.DataFrame, title: str) -> alt.Chart:
    return (
        alt.Chart(points, title=title)
        .mark_line(point=len(points) < 50)
        .encode(
            x=alt.X("step:Q", title="update"), y=alt.Y("value:Q", title=None, scale=alt.Scale(zero=False)),
            color=alt.Color("run:N", legend=alt.Legend(orient="bottom", title=None)), tooltip=["run", "step", "value"],
        )
        .properties(height=260)
        .interactive(bind_y=False)
    )  # fmt: skip


def find_spikes(loss: pd.DataFrame) -> pd.DataFrame:
    """Points that lie more than six median deviations above the median of the ten before them."""
    value = loss["value"].reset_index(drop=True)
    before = value.shift(1).rolling(10, min_periods=5)
    middle = before.median()
    spread = (value.shift(1) - middle).abs().rolling(10, min_periods=5).median()
    return loss.reset_index(drop=True)[value > middle + 6 * spread.clip(lower=1e-6) + 0.05 * middle.abs()]
