"""Curves of a training stage, live, of this run and of any others beside it, and where they ended up."""

import altair as alt
import pandas as pd
import streamlit as st

from dashboard import reading

TRAINED = ("pretrain", "extend", "sft", "dpo", "reward", "grpo")
FIRST = ("loss", "reward", "heldout_pass_rate", "accuracy", "grad_norm", "learning_rate")
"""Metrics that are shown without being asked for, where a stage has them."""
AT_FIRST = 4
"""Of these, how many: every chart takes a browser a tenth of a second."""
MOST = 50
"""Runs that are compared at once."""


def show(run_id: str) -> None:
    stages = reading.stages(run_id)
    began = stages[stages["mlflow_run_id"].notna() | stages["artifact"].notna()]
    names = [name for name in TRAINED if name in set(began["stage"])]
    if not names:
        st.info("No training stage of this run has begun. Its curves appear here while it trains.")
        return
    stage = st.segmented_control(
        "Stage", names, default=names[-1], key="stage", bind="query-params", required=True
    ) or names[-1]  # fmt: skip
    others = reading.runs()
    others = others[others["id"] != run_id]
    labels = {f"{row.name} · {row.id[:8]}": row.id for row in others.itertuples()}
    compared = st.multiselect(
        "Compare with", list(labels), key="compare", bind="query-params", max_selections=MOST,
        placeholder="Other runs, by name or id",
    )  # fmt: skip
    draw(run_id, stage, tuple(labels[label] for label in compared))


@st.fragment(run_every=reading.LIVE_SECONDS)
def draw(run_id: str, stage: str, compared: tuple[str, ...]) -> None:
    tracked, cached = sources((run_id, *compared), stage)
    ends = reading.metric_values(tuple(sorted(tracked)))
    names = set(ends["metric"]) | set(cached["metric"])
    metrics = sorted(names, key=lambda m: (FIRST.index(m) if m in FIRST else len(FIRST), m))
    if not metrics:
        st.info("Nothing has been measured yet.")
        return
    shown = st.multiselect(
        "Metrics", metrics, default=[m for m in metrics if m in FIRST][:AT_FIRST] or metrics[:2], key="metrics",
        bind="query-params",
    )  # fmt: skip
    curves = reading.metric_curves(tuple(sorted(tracked)), tuple(sorted(shown)))
    curves = curves.assign(run=curves["mlflow_run_id"].map(tracked))
    points = pd.concat([part for part in (curves, cached) if len(part)] or [curves])
    columns = st.columns(2)
    for index, metric in enumerate(shown):
        part = points[points["metric"] == metric]
        if len(part):
            columns[index % 2].altair_chart(line(part, metric, spikes=metric == "loss"), width="stretch")
    spikes = find_spikes(points[(points["metric"] == "loss") & (points["run"] == run_id[:8])])
    if len(spikes):
        st.warning(f"The loss jumped at step {', '.join(str(step) for step in spikes['step'])}.")
    if compared:
        st.subheader("Where they ended")
        st.dataframe(endings(ends.assign(run=ends["mlflow_run_id"].map(tracked)), cached, shown), width="stretch")


def sources(run_ids: tuple[str, ...], stage: str) -> tuple[dict[str, str], pd.DataFrame]:
    """MLflow run -> short run id; and the curves of runs that found the stage in the cache, from its checkpoint."""
    tracked: dict[str, str] = {}
    parts = []
    for run_id in run_ids:
        stages = reading.stages(run_id)
        row = stages[stages["stage"] == stage]
        if row.empty:
            continue
        mlflow_run, digest = row["mlflow_run_id"].iloc[0], row["artifact"].iloc[0]
        if mlflow_run:
            tracked[mlflow_run] = run_id[:8]
        elif digest and "training.json" in reading.files(digest):
            rows = pd.DataFrame(reading.read_json(digest, "training.json")["history"])
            long = rows.melt("step", var_name="metric", value_name="value").dropna()
            parts.append(long.assign(run=run_id[:8]))
    return tracked, pd.concat(parts) if parts else pd.DataFrame(columns=["step", "metric", "value", "run"])


def endings(ends: pd.DataFrame, cached: pd.DataFrame, metrics: list[str]) -> pd.DataFrame:
    """The last value of each metric, a row a run."""
    last = cached.sort_values("step").groupby(["run", "metric"], as_index=False).last()
    both = pd.concat([part for part in (ends, last) if len(part)] or [ends])
    table = both.pivot_table(index="run", columns="metric", values="value", aggfunc="last")
    return table[[metric for metric in metrics if metric in table]]


def line(points: pd.DataFrame, title: str, *, spikes: bool) -> alt.Chart | alt.LayerChart:
    several = points["run"].nunique() > 1
    base = alt.Chart(points, title=title).encode(
        x=alt.X("step:Q", title="update"),
        y=alt.Y("value:Q", title=None, scale=alt.Scale(zero=False)),
        color=alt.Color("run:N", legend=alt.Legend(orient="bottom", title=None, columns=6) if several else None),
        tooltip=["run", "step", "value"],
    )
    chart: alt.Chart | alt.LayerChart = base.mark_line(point=len(points) < 50)
    if spikes:
        marked = pd.concat([find_spikes(part) for _, part in points.groupby("run")])
        if len(marked):
            chart = chart + alt.Chart(marked).mark_point(color="#d64545", size=80).encode(x="step:Q", y="value:Q")
    return chart.properties(height=260).interactive(bind_y=False)


def find_spikes(loss: pd.DataFrame) -> pd.DataFrame:
    """Points that lie more than six median deviations above the median of the ten before them."""
    value = loss["value"].reset_index(drop=True)
    before = value.shift(1).rolling(10, min_periods=5)
    middle = before.median()
    spread = (value.shift(1) - middle).abs().rolling(10, min_periods=5).median()
    return loss.reset_index(drop=True)[value > middle + 6 * spread.clip(lower=1e-6) + 0.05 * middle.abs()]
