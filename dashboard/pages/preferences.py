"""Preference pairs and rollouts: read what the policy said, how it was rewarded, and how reward went over time."""

import json

import altair as alt
import pandas as pd
import streamlit as st

from dashboard import reading


def show(run_id: str) -> None:
    rollouts, pairs = st.tabs(["Rollouts of GRPO", "Preference pairs"])
    with rollouts:
        show_rollouts(reading.artifact_of(run_id, "grpo"))
    with pairs:
        show_pairs(reading.artifact_of(run_id, "pairs"))


def show_rollouts(digest: str | None) -> None:
    if digest is None:
        st.info("GRPO has not finished in this run; while it trains, its curves are on the Training page.")
        return
    table = reading.read_parquet(digest, "rollouts.parquet")
    curve = table.groupby("rollout")[["reward", "correct", "format"]].mean().reset_index()
    long = curve.melt("rollout", var_name="part", value_name="mean")
    st.altair_chart(alt.Chart(long).mark_line().encode(x="rollout", y="mean", color="part"), width="stretch")
    left, middle, right = st.columns(3)
    task = left.selectbox("Task", ["all", *sorted(table["task"].unique())])
    verdict = middle.selectbox("Verdict", ["all", "right", "wrong"])
    span = right.slider("Rollouts", 0, int(table["rollout"].max()), (0, int(table["rollout"].max())))
    shown = table[table["rollout"].between(*span)]
    if task != "all":
        shown = shown[shown["task"] == task]
    if verdict != "all":
        shown = shown[shown["correct"] == (1.0 if verdict == "right" else 0.0)]
    st.caption(f"{len(shown):,} of {len(table):,} answers; the first 500 are shown")
    st.dataframe(shown.head(500), hide_index=True, width="stretch")


def show_pairs(digest: str | None) -> None:
    if digest is None:
        st.info("No pairs have been made in this run.")
        return
    table = reading.read_parquet(digest, "pairs.parquet")
    summary = reading.summary(digest)
    st.bar_chart(pd.Series(summary["pairs_by_task"], name="pairs"), horizontal=True)
    number = st.number_input("Pair", 0, len(table) - 1, 0)
    pair = table.iloc[int(number)]
    for message in json.loads(pair["messages"]):
        st.chat_message(message["role"]).write(message["content"])
    chosen, rejected = st.columns(2)
    chosen.success(pair["chosen"])
    rejected.error(pair["rejected"])
