"""Checkpoints: what each alias means and meant, what a checkpoint was made from, its figures."""

import pandas as pd
import streamlit as st

from dashboard import reading

ALIASES = ("base", "long", "sft", "dpo", "rl")


def show(run_id: str) -> None:
    table = reading.artifacts("checkpoint")
    if table.empty:
        st.info("No checkpoint exists yet.")
        return
    catalog = reading.catalog()
    now = {catalog.resolve_alias(alias): alias for alias in ALIASES}
    table["alias"] = [now.get(digest, "") for digest in table["digest"]]
    table["megabytes"] = (table["bytes"] / 1e6).round(1)
    table["final loss"] = [summary.get("final_loss") for summary in table["summary"]]
    st.dataframe(
        table[["alias", "stage", "created", "megabytes", "final loss", "digest"]], hide_index=True, width="stretch"
    )
    digests = list(table["digest"])
    labels = {row.digest: f"{row.alias or row.stage} · {row.digest[:12]}" for row in table.itertuples()}
    asked = st.query_params.get("checkpoint", digests[0])
    digest = st.selectbox(
        "Checkpoint", digests, index=digests.index(asked) if asked in labels else 0, format_func=lambda d: labels[d]
    )
    st.query_params["checkpoint"] = digest
    left, right = st.columns([3, 2])
    with left:
        st.subheader("Made from")
        st.graphviz_chart(lineage_graph(digest), width="stretch")
    with right:
        st.subheader("Figures")
        summary = {k: v for k, v in reading.summary(digest).items() if isinstance(v, int | float | str)}
        st.dataframe(pd.Series(summary, name="value").astype(str), width="stretch")
        st.code(f"qwenforge chat {digest[:12]}\nqwenforge export {digest[:12]} FOLDER\n"
                f"qwenforge artifacts verify {digest[:12]}", language="bash")  # fmt: skip
    st.subheader("Promotions")
    history = [(a.alias, a.digest[:12], a.moved_at) for alias in ALIASES for a in catalog.alias_history(alias)]
    st.dataframe(pd.DataFrame(history, columns=["alias", "checkpoint", "since"]), hide_index=True, width="stretch")


@st.cache_data
def lineage_graph(digest: str) -> str:
    lineage = reading.catalog().lineage(digest)
    lines = ["digraph {", "rankdir=LR; bgcolor=transparent; nodesep=0.15;",
             'node [shape=box style="filled,rounded" fillcolor="#2f6fde" fontcolor=white fontname="sans-serif" '
             "fontsize=11];", 'edge [color="#9aa3b2" fontsize=9 fontcolor="#9aa3b2"];']  # fmt: skip
    lines += [f'"{a.digest}" [label="{a.stage}\\n{a.digest[:8]}"];' for a in lineage.artifacts]
    lines += [f'"{edge.parent}" -> "{edge.child}" [label="{edge.input_name}"];' for edge in lineage.edges]
    return "\n".join([*lines, "}"])
