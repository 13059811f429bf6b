"""Preferences: judge pairs, see how far people agree, read rollouts with their rewards, and the pairs themselves."""

import json

import pandas as pd
import streamlit as st

from dashboard import agreement, labelling, reading, rollouts
from dashboard.access import person

VIEWS = ("Rollouts", "Pairs", "Label", "Agreement")


def show(run_id: str) -> None:
    tabs = dict(zip(VIEWS, st.tabs(list(VIEWS), key="view", bind="query-params"), strict=True))
    for name, tab in tabs.items():
        if not tab.open:
            continue
        with tab:
            if name == "Rollouts":
                rollouts.show(run_id)
            elif name == "Pairs":
                show_pairs(run_id)
            elif name == "Label":
                labelling.show(person())
            else:
                agreement.show()


def show_pairs(run_id: str) -> None:
    digest = reading.artifact_of(run_id, "pairs")
    if digest is None:
        st.info("No pairs have been made in this run yet: the stage `pairs` makes them after `sft`.")
        return
    table = reading.read_parquet(digest, "pairs.parquet")
    summary = reading.summary(digest)
    left, right = st.columns([2, 1])
    left.bar_chart(pd.Series(summary["pairs_by_task"], name="pairs"), horizontal=True)
    if human := summary.get("human"):
        right.dataframe(pd.Series(human, name="people's verdicts"), width="stretch")
    with right:
        labelling.queue_form(table, digest, person())
    source = st.segmented_control(
        "Decided by", ["all", *sorted(table["source"].unique())], default="all", key="source", bind="query-params"
    )
    shown = table if source in (None, "all") else table[table["source"] == source]
    number = st.number_input("Pair", 1, len(shown), 1, key="pair", bind="query-params")
    pair = shown.iloc[int(number) - 1]
    for message in json.loads(pair["messages"]):
        st.chat_message(message["role"]).write(message["content"])
    chosen, rejected = st.columns(2)
    chosen.success(pair["chosen"])
    rejected.error(pair["rejected"])
    st.caption(f"{pair['id']} · {pair['task']} · {pair['split']} · decided by: {pair['source']}")
