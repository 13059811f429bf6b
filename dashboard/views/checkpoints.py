"""Checkpoints: what each was made from, its figures, what aliases mean and meant, and moving them."""

import pandas as pd
import streamlit as st

from dashboard import files, promotion, reading
from dashboard.access import access, person


def show(run_id: str) -> None:
    table = reading.checkpoints()
    if table.empty:
        st.info("No checkpoint exists yet: the first one appears here when the stage `pretrain` has finished.")
        return
    table = table.assign(megabytes=(table["bytes"] / 1e6).round(1))
    st.dataframe(
        table[["alias", "stage", "created_at", "megabytes", "final_loss", "digest"]], hide_index=True, width="stretch",
        height=300,
    )  # fmt: skip
    named = table.sort_values("alias", key=lambda alias: alias == "", kind="stable")  # those with an alias first
    labels = {row.digest: f"{row.alias or row.stage} · {row.digest[:12]}" for row in named.itertuples()}
    digests = list(labels)
    asked = st.query_params.get("checkpoint", digests[0])
    digest = st.selectbox(
        "Checkpoint", digests, index=digests.index(asked) if asked in labels else 0, format_func=lambda d: labels[d]
    )
    st.query_params["checkpoint"] = digest
    left, right = st.columns([3, 2])
    with left:
        st.subheader("Made from")
        st.graphviz_chart(lineage_graph(digest), width="content")
    with right:
        st.subheader("Figures")
        summary = {k: v for k, v in reading.known_summary(digest).items() if isinstance(v, int | float | str)}
        st.dataframe(pd.Series(summary, name="value").astype(str), width="stretch")
        st.code(f"qwenforge chat {digest[:12]}\nqwenforge export {digest[:12]} FOLDER", language="bash")
    with st.expander("Files: download, verify"):
        files.show(digest, person())
    promotion.show(digest, person())
    show_history()


def show_history() -> None:
    promotions, verdicts, audit = st.tabs(["Aliases", "Gate", "Audit"])
    history = [(p.alias, p.digest[:12], p.since, p.run_id or "") for p in reading.promotions()]
    promotions.dataframe(
        pd.DataFrame(history, columns=["alias", "checkpoint", "since", "run"]), hide_index=True, width="stretch"
    )
    gates = [
        (g.asked_at, g.who, g.alias, short(g.before), short(g.after), g.state, ", ".join(g.worse), g.error or "")
        for g in reading.gates().recent()
    ]
    columns = ["asked", "who", "alias", "from", "to", "verdict", "worse", "error"]
    verdicts.dataframe(pd.DataFrame(gates, columns=columns), hide_index=True, width="stretch")
    rows = [
        (e.at, e.who, e.action, e.subject, short(e.before), short(e.after), e.reason or "", str(e.gate_id or ""))
        for e in access().audit()
    ]
    columns = ["when", "who", "what", "on", "from", "to", "reason", "gate"]
    audit.dataframe(pd.DataFrame(rows, columns=columns), hide_index=True, width="stretch")


def short(value: str | None) -> str:
    return value[:12] if value and len(value) == 64 else value or ""


@st.cache_data
def lineage_graph(digest: str) -> str:
    lineage = reading.catalog().lineage(digest)
    lines = ["digraph {", "rankdir=TB; bgcolor=transparent; nodesep=0.15; ranksep=0.25;",
             'node [shape=box style="filled,rounded" fillcolor="#2f6fde" fontcolor=white fontname="sans-serif" '
             "fontsize=11];", 'edge [color="#9aa3b2" arrowsize=0.6];']  # fmt: skip
    lines += [f'"{a.digest}" [label="{a.stage}\\n{a.digest[:8]}"];' for a in lineage.artifacts]
    lines += [f'"{edge.parent}" -> "{edge.child}" [edgetooltip="{edge.input_name}"];' for edge in lineage.edges]
    return "\n".join([*lines, "}"])
