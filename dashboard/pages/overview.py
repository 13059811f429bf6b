"""The run as a graph of stages: state, time, what each has shown over its baseline."""

import pandas as pd
import streamlit as st

from dashboard import reading

COLOURS = {
    "completed": "#2e9e5b", "cached": "#7fbf9b", "running": "#2f6fde", "pending": "#9aa3b2", "failed": "#d64545",
    "stopped": "#d99a2b",
}  # fmt: skip


@st.fragment(run_every=reading.LIVE_SECONDS)
def show(run_id: str) -> None:
    runs, stages = reading.runs().set_index("id"), reading.stages(run_id)
    run = runs.loc[run_id]
    done = stages["state"].isin(["completed", "cached"])
    columns = st.columns(4)
    columns[0].metric("State", run["state"])
    columns[1].metric("Stages done", f"{done.sum()} of {len(stages)}")
    columns[2].metric("Minutes", f"{run['minutes']:.1f}")
    columns[3].metric("Seed", str(run["seed"]))
    if len(stages):
        st.progress(float(done.mean()))
    if run["error"]:
        st.error(run["error"])
    left, right = st.columns([2, 3])
    with left:
        st.graphviz_chart(graph(stages), width="stretch")
    with right:
        st.dataframe(table(stages), hide_index=True, width="stretch", height=38 * (len(stages) + 1))


def graph(stages: pd.DataFrame) -> str:
    """Graphviz text: an edge wherever one stage's artifact was an input of another's."""
    made = {row.artifact: row.stage for row in stages.itertuples() if row.artifact}
    lines = ["digraph {", "rankdir=TB; bgcolor=transparent; nodesep=0.15; ranksep=0.25;",
             'node [shape=box style="filled,rounded" fontname="sans-serif" fontsize=11 fontcolor=white height=0.3];',
             'edge [color="#9aa3b2" arrowsize=0.6];']  # fmt: skip
    for row in stages.itertuples():
        lines.append(f'"{row.stage}" [color="{COLOURS[row.state]}" tooltip="{row.state}"];')
    for digest, stage in made.items():
        for parent in reading.store().manifest(digest).inputs.values():
            if parent in made and stage != "report":  # which reads everything
                lines.append(f'"{made[parent]}" -> "{stage}";')
    return "\n".join([*lines, "}"])


def table(stages: pd.DataFrame) -> pd.DataFrame:
    """One row a stage with its first measured effect."""
    effects = [first_effect(row.artifact) for row in stages.itertuples()]
    return pd.DataFrame(
        {"stage": stages["stage"], "state": stages["state"], "seconds": stages["seconds"].round(1),
         "effect over its baseline": effects, "error": stages["error"]}
    )  # fmt: skip


def first_effect(digest: str | None) -> str:
    found = reading.summary(digest).get("effects", []) if digest else []
    if not found:
        return ""
    effect = found[0]
    return f"{effect['name']}: {effect['value']:.3g} (baseline {effect['baseline']:.3g})"
