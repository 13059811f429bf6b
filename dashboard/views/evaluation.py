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
        st.info(
            "Nothing has been evaluated in this run yet: the stages `evaluate-*` do so, `qwenforge eval` does at once."
        )
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
        needles([name for name in made if name != "n-gram"], made)
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


def needles(names: list[str], made: dict[str, str]) -> None:
    """Where in the context the key lay: the keys of each length are spread evenly from the start to the end."""
    name = st.segmented_control(
        "Needle in a haystack of", names, default=names[-1], key="needles", bind="query-params", required=True
    )
    items = reading.read_parquet(made[name or names[-1]], "items.parquet")
    keys = items[items["metric"] == "passkey"]
    if keys.empty:
        return
    number = keys["item"].str.split("/").str[1].astype(int)
    per_length = number.groupby(keys["group"]).transform("max") + 1
    cells = keys.assign(
        length=keys["group"].astype(int), depth=((number + 0.5) / per_length * 10).astype(int) * 10
    )  # fmt: skip
    means = cells.groupby(["length", "depth"], as_index=False)["score"].mean()
    chart = alt.Chart(means).mark_rect().encode(
        x=alt.X("length:O", title="tokens of context"), y=alt.Y("depth:O", title="depth of the key, %"),
        color=alt.Color("score", scale=alt.Scale(domain=[0, 1], scheme="redyellowgreen"), title="found"),
        tooltip=["length", "depth", alt.Tooltip("score", format=".0%")],
    )  # fmt: skip
    st.altair_chart(chart.properties(height=260), width="stretch")


def compare(made: dict[str, str]) -> None:
    """Items on which two checkpoints' scores differ."""
    st.subheader("Item by item")
    names = [name for name in made if name != "n-gram"]
    if len(names) < 2:
        st.info("Two evaluated checkpoints are needed to compare them.")
        return
    left, middle, right = st.columns(3)
    before = left.selectbox("Before", names, index=len(names) - 2, key="before", bind="query-params")
    after = middle.selectbox("After", names, index=len(names) - 1, key="after", bind="query-params")
    frames = [reading.read_parquet(made[name], "items.parquet") for name in (before, after)]
    shared = sorted(set(frames[0]["metric"]) & set(frames[1]["metric"]))
    if not shared:
        st.info("These two were not measured on anything in common.")
        return
    metric = right.selectbox(
        "Metric", shared, index=shared.index("verified_greedy") if "verified_greedy" in shared else 0, key="metric",
        bind="query-params",
    )  # fmt: skip
    change = difference(frames[0], frames[1], metric)
    by_group = change.groupby("group")["change"].mean().sort_values()
    st.bar_chart(by_group, horizontal=True, height=28 * len(by_group) + 40)
    changed = change[change["change"] != 0].sort_values("change")
    better, worse = int((change["change"] > 0).sum()), int((change["change"] < 0).sum())
    st.caption(f"{len(changed):,} of {len(change):,} items changed: {better:,} went up, {worse:,} went down")
    columns = ["group", "item", "score_before", "score_after", "change"]
    st.dataframe(changed[columns].head(1000), hide_index=True, width="stretch")


def difference(before: pd.DataFrame, after: pd.DataFrame, metric: str) -> pd.DataFrame:
    """group, item, both scores per unit of weight and their change, over the items that both measured."""
    parts = [
        frame[frame["metric"] == metric].assign(score=lambda f: f["score"] / f["weight"]) for frame in (before, after)
    ]
    both = parts[0].merge(parts[1], on=["metric", "group", "item"], suffixes=("_before", "_after"))
    return both.assign(change=both["score_after"] - both["score_before"])
