"""The rollout browser: reward curves of GRPO, and every answer with its rewards; live while it trains here."""

import json
from typing import Any

import altair as alt
import pandas as pd
import streamlit as st

from dashboard import reading


def show(run_id: str) -> None:
    table = rollouts_of(run_id)
    if table.empty:
        st.info("GRPO has not sampled anything in this run yet. Its answers appear here with the first rollout.")
        return
    curve = table.groupby("rollout")[["reward", "correct", "format"]].mean().reset_index()
    long = curve.melt("rollout", var_name="part", value_name="mean")
    st.altair_chart(alt.Chart(long).mark_line().encode(x="rollout", y="mean", color="part"), width="stretch")
    left, middle, right = st.columns(3)
    tasks = sorted(table["task"].unique())
    task = left.selectbox("Task", ["all", *tasks], key="task", bind="query-params")
    verdict = middle.selectbox("Verdict", ["all", "right", "wrong"], key="verdict", bind="query-params")
    first, last = int(table["rollout"].min()), int(table["rollout"].max())
    span = right.slider("Rollouts", first, max(last, first + 1), (first, max(last, first + 1)))
    shown = table[table["rollout"].between(*span)]
    if task != "all":
        shown = shown[shown["task"] == task]
    if verdict != "all":
        shown = shown[shown["correct"] == (1.0 if verdict == "right" else 0.0)]
    st.caption(f"{len(shown):,} of {len(table):,} answers; the first 500 are shown. Choose a row to see its group.")
    picked = st.dataframe(
        shown.head(500), hide_index=True, width="stretch", height=320, on_select="rerun", selection_mode="single-row",
        key="answers",
    )  # fmt: skip
    rows = picked["selection"]["rows"]
    asked = st.query_params.get("group")  # rollout.query, so that a group can be linked
    if rows:
        row = shown.iloc[rows[0]]
        asked = st.query_params["group"] = f"{row['rollout']}.{row['query']}"
    if asked:
        show_group(run_id, table, *asked.split(".", 1))


def rollouts_of(run_id: str) -> pd.DataFrame:
    """rollout, query, task, text, reward, correct, format, advantage: from the artifact, or from where they grow."""
    stages = reading.stages(run_id)
    row = stages[stages["stage"] == "grpo"]
    if row.empty:
        return pd.DataFrame()
    digest, key = row["artifact"].iloc[0], row["cache_key"].iloc[0]
    if digest:
        return reading.read_parquet(digest, "rollouts.parquet")
    parts = [flat(number, saved) for number, saved in reading.live_rollouts(key).items()] if key else []
    return pd.concat(parts) if parts else pd.DataFrame()


def flat(number: int, saved: dict[str, Any]) -> pd.DataFrame:
    """One saved rollout, a row an answer."""
    group = len(saved["answers"]) // len(saved["queries"])
    return pd.DataFrame(
        {
            "rollout": number,
            "query": [query for query in saved["queries"] for _ in range(group)],
            "task": [task for task in saved["tasks"] for _ in range(group)],
            "text": [answer["text"] for answer in saved["answers"]],
            "reward": saved["rewards"], "correct": saved["correct"], "format": saved["format"],
            "advantage": saved["advantages"],
        }
    )  # fmt: skip


def show_group(run_id: str, table: pd.DataFrame, rollout: str, query: str) -> None:
    """All answers to one query of one rollout, best first: what the update learnt from."""
    group = table[(table["rollout"].astype(str) == rollout) & (table["query"] == query)]
    if group.empty:
        return
    st.subheader(f"Rollout {rollout}, query {query}")
    conversations = reading.artifact_of(run_id, "conversations")
    if conversations:
        asked = reading.read_parquet(conversations, "conversations.parquet")
        for messages in asked.loc[asked["id"] == query, "messages"]:
            for message in json.loads(messages):
                st.chat_message(message["role"]).write(message["content"])
    for answer in group.sort_values("reward", ascending=False).itertuples():
        with st.container(border=True):
            st.caption(f"reward {answer.reward:.3f} · advantage {answer.advantage:+.3f} · "
                       f"{'right' if answer.correct else 'wrong'}")  # fmt: skip
            st.text(answer.text)
