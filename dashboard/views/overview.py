"""The run as a graph of stages: state, progress, time left, cost, what each has shown over its baseline."""

from itertools import pairwise
from typing import Any

import pandas as pd
import streamlit as st

from dashboard import reading
from infra.hardware import describe_host, estimated_price_per_hour

COLOURS = {
    "completed": "#2e9e5b", "cached": "#5f9f7d", "running": "#2f6fde", "pending": "#9aa3b2", "failed": "#d64545",
    "stopped": "#c98716",
}  # fmt: skip


@st.fragment(run_every=reading.LIVE_SECONDS)
def show(run_id: str) -> None:
    runs, stages = reading.runs().set_index("id"), reading.stages(run_id)
    run = runs.loc[run_id]
    usual = reading.typical_seconds(recipe_of(str(run["name"])))
    stages = stages.assign(left=[seconds_left(row, usual) for row in stages.itertuples()])
    done = stages["state"].isin(["completed", "cached"])
    columns = st.columns(6)
    columns[0].metric("State", run["state"])
    columns[1].metric("Stages done", f"{done.sum()} of {len(stages)}")
    columns[2].metric("Minutes", f"{run['minutes']:.1f}")
    columns[3].metric("Time left", left_of(stages) if run["state"] == "running" else "none")
    price = hourly_price()
    columns[4].metric(
        "Cost", "unknown" if price is None else f"${run['minutes'] / 60 * price:,.2f}",
        help="estimated: these minutes at the rent of a machine like the one that shows this page",
    )  # fmt: skip
    columns[5].metric("Seed", str(run["seed"]))
    running = stages[stages["state"] == "running"]
    shares = running["progress"].fillna(0).sum()
    if len(stages):
        now = ", ".join(f"{row.stage}: {row.doing}" if row.doing else row.stage for row in running.itertuples())
        st.progress(float((done.sum() + shares) / len(stages)), text=now or None)
    if run["error"]:
        st.error(run["error"])
    left, right = st.columns([2, 3])
    with left:
        st.graphviz_chart(graph(stages), width="stretch" if done.all() else "content")  # a mere column of boxes
    with right:
        st.dataframe(
            table(stages), hide_index=True, width="stretch", height=38 * (len(stages) + 1),
            column_config={"progress": st.column_config.ProgressColumn(format="percent", min_value=0.0, max_value=1.0)},
        )  # fmt: skip


@st.cache_data
def hourly_price() -> float | None:
    return estimated_price_per_hour(describe_host())


def recipe_of(run_name: str) -> str:
    """A run is called after its recipe, with date and time behind."""
    return run_name.rpartition("-")[0].rpartition("-")[0] or run_name


def seconds_left(stage: Any, usual: dict[str, float]) -> float | None:
    """By the stage's own progress, else by what it took in earlier runs of the recipe; None where nobody knows."""
    if stage.state in ("completed", "cached"):
        return 0.0
    expected = usual.get(stage.stage)
    if stage.state != "running":
        return expected
    if pd.notna(stage.seconds_left):
        return float(stage.seconds_left)
    if expected is None:
        return None
    spent = (pd.Timestamp.now(tz="UTC") - pd.Timestamp(stage.started)).total_seconds()
    return max(0.0, expected - spent)


def left_of(stages: pd.DataFrame) -> str:
    """Of all stages; ``at least`` where some have never been timed."""
    known = stages["left"].dropna()
    text = duration(float(known.sum()))
    return text if len(known) == len(stages) else f"over {text}" if known.sum() else "unknown"


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def graph(stages: pd.DataFrame) -> str:
    """Graphviz text: an edge wherever one stage's artifact was an input of another's."""
    made = {row.artifact: row.stage for row in stages.itertuples() if row.artifact}
    lines = ["digraph {", "rankdir=TB; bgcolor=transparent; nodesep=0.15; ranksep=0.25;",
             'node [shape=box style="filled,rounded" fontname="sans-serif" fontsize=11 fontcolor=white height=0.3];',
             'edge [color="#9aa3b2" arrowsize=0.6];']  # fmt: skip
    for row in stages.itertuples():
        note = f"\\n{row.progress:.0%}" if row.state == "running" and pd.notna(row.progress) else ""
        lines.append(f'"{row.stage}" [color="{COLOURS[row.state]}" label="{row.stage}{note}" tooltip="{row.state}"];')
    for before, row in pairwise(stages.itertuples()):
        if not row.artifact:  # no lineage yet: below the stage before it, or all that wait would lie side by side
            lines.append(f'"{before.stage}" -> "{row.stage}" [style=invis];')
    for parent, child in reading.edges(tuple(made)):
        if made[child] != "report":  # which reads everything
            lines.append(f'"{made[parent]}" -> "{made[child]}";')
    return "\n".join([*lines, "}"])


def table(stages: pd.DataFrame) -> pd.DataFrame:
    """One row a stage with its first measured effect."""
    effects = [first_effect(row.artifact) for row in stages.itertuples()]
    share = stages["progress"].mask(stages["state"].isin(["completed", "cached"]), 1.0)
    left = [duration(value) if pd.notna(value) and value else "" for value in stages["left"]]
    return pd.DataFrame(
        {"stage": stages["stage"], "state": stages["state"], "progress": share,
         "seconds": stages["seconds"].astype(float).round(1), "left": left, "effect over its baseline": effects,
         "error": stages["error"]}
    )  # fmt: skip


def first_effect(digest: str | None) -> str:
    found = reading.summary(digest).get("effects", []) if digest else []
    if not found:
        return ""
    effect = found[0]
    return f"{effect['name']}: {effect['value']:.3g} (baseline {effect['baseline']:.3g})"
