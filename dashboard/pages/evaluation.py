"""Every checkpoint on every metric, pass keys by length, and where two checkpoints differ item by item."""

import altair as alt
import pandas as pd
import streamlit as st

from dashboard import reading

NAMES = {"ngram": "n-gram", "evaluate-base": "base", "evaluate-long": "long", "evaluate-sft": "sft",
         "evaluate-dpo": "dpo", "evaluate-rl": "rl"}  # fmt: skip


def show(run_id: str) -> None:
    made = {name: d for stage, name in NAMES.items() if (d := reading.artifact_of(run_id, stage))}
    if not made:
        st.info("Nothing has been evaluated in this run yet.")
        return
    claims(run_id)
    rows = pd.DataFrame(
        [
            {"checkpoint": who, "metric": name, **cell}
            for who, digest in made.items()
            for name, cell in reading.read_json(digest, "evaluation.json")["metrics"].items()
        ]
    )
    whole = rows[~rows["metric"].str.contains("/") | rows["metric"].str.startswith("passkey/")]
    table = whole.pivot(index="metric", columns="checkpoint", values="value")[list(made)]
    st.subheader("Every checkpoint on every metric")
    st.dataframe(table.round(3), width="stretch", height=38 * (len(table) + 1))
    keys = rows[rows["metric"].str.startswith("passkey/")].assign(
        length=lambda r: r["metric"].str.split("/").str[1].astype(int)
    )
    if len(keys):
        st.subheader("Pass keys found by context length")
        st.altair_chart(heat_map(keys, list(made)), width="stretch")
    compare(made)


def claims(run_id: str) -> None:
    digest = reading.artifact_of(run_id, "report")
    if digest is None:
        return
    found = pd.DataFrame(reading.read_json(digest, "report.json")["claims"])
    st.subheader("Headline claims")
    st.dataframe(
        found[["claim", "verdict", "value", "baseline", "difference", "low", "high", "n"]],
        hide_index=True, width="stretch",
    )  # fmt: skip


def heat_map(keys: pd.DataFrame, order: list[str]) -> alt.LayerChart:
    base = alt.Chart(keys).encode(x=alt.X("length:O", title="tokens"), y=alt.Y("checkpoint", sort=order, title=None))
    cells = base.mark_rect().encode(
        color=alt.Color("value", scale=alt.Scale(domain=[0, 1], scheme="redyellowgreen"), legend=None)
    )
    return (cells + base.mark_text(color="black").encode(text=alt.Text("value", format=".0%"))).properties(height=220)


def compare(made: dict[str, str]) -> None:
    """Items on which two checkpoints' scores differ."""
    st.subheader("Item by item")
    names = [name for name in made if name != "n-gram"]
    if len(names) < 2:
        st.info("Two evaluated checkpoints are needed to compare them.")
        return
    left, middle, right = st.columns(3)
    before = left.selectbox("Before", names, index=len(names) - 2)
    after = middle.selectbox("After", names, index=len(names) - 1)
    frames = [reading.read_parquet(made[name], "items.parquet") for name in (before, after)]
    metric = right.selectbox("Metric", sorted(set(frames[0]["metric"]) & set(frames[1]["metric"])))
    both = frames[0].merge(frames[1], on=["metric", "group", "item"], suffixes=("_before", "_after"))
    both = both[both["metric"] == metric]
    gained = both.assign(change=both["score_after"] - both["score_before"])
    by_group = gained.groupby("group")["change"].mean().sort_values()
    st.bar_chart(by_group, horizontal=True, height=28 * len(by_group) + 40)
    changed = gained[gained["change"] != 0].sort_values("change")
    st.caption(f"{len(changed):,} of {len(gained):,} items changed")
    columns = ["group", "item", "score_before", "score_after", "change"]
    st.dataframe(changed[columns].head(1000), hide_index=True, width="stretch")
