"""What became of the documents: the funnel, why they were dropped with samples, quality, mixture before and after."""

import altair as alt
import pandas as pd
import streamlit as st

from dashboard import reading

FUNNEL = ("ingest", "clean", "deduplicate", "quality", "domains", "mixture", "decontaminate")


def show(run_id: str) -> None:
    made = {stage: digest for stage in FUNNEL if (digest := reading.artifact_of(run_id, stage))}
    if not made:
        st.info("No data stage of this run has finished yet.")
        return
    funnel, mixture, dropped, quality, sources = st.tabs(["Funnel", "Mixture", "Dropped", "Quality", "Sources"])
    with funnel:
        show_funnel(made)
    with mixture:
        show_mixture(made.get("mixture"))
    with dropped:
        show_dropped(made.get("clean"))
    with quality:
        show_quality(made.get("quality"))
    with sources:
        show_sources(made.get("ingest"))


def show_funnel(made: dict[str, str]) -> None:
    rows = []
    for stage, digest in made.items():
        summary = reading.summary(digest)
        documents = summary.get("documents_out", summary.get("documents"))
        if documents is not None:
            size = summary.get("bytes_out", summary.get("bytes"))  # some stages keep the text as it is
            rows.append({"stage": stage, "documents": int(documents), "megabytes": size and float(size) / 1e6})
    table = pd.DataFrame(rows)
    bars = alt.Chart(table).mark_bar().encode(y=alt.Y("stage", sort=None, title=None), tooltip=list(table.columns))
    left, right = st.columns(2)
    left.altair_chart(bars.encode(x="documents"), width="stretch")
    right.altair_chart(bars.encode(x="megabytes"), width="stretch")
    st.dataframe(table, hide_index=True)


def show_mixture(digest: str | None) -> None:
    if digest is None:
        st.info("The mixture has not been solved yet.")
        return
    shares = reading.read_json(digest, "mixture.json")
    table = pd.DataFrame({"before": shares["before"], "after": shares["after"]}).fillna(0).reset_index(names="domain")
    long = table.melt("domain", var_name="mixture", value_name="share")
    st.altair_chart(
        alt.Chart(long)
        .mark_bar()
        .encode(
            y=alt.Y("domain", title=None, sort="-x"), x=alt.X("share", axis=alt.Axis(format="%")), color="mixture",
            yOffset=alt.YOffset("mixture", sort=["before", "after"]), tooltip=["domain", "mixture", "share"],
        )
        .properties(height=26 * len(table) + 40),
        width="stretch",
    )  # fmt: skip


def show_dropped(digest: str | None) -> None:
    if digest is None:
        st.info("Nothing has been cleaned yet.")
        return
    reasons = pd.Series(reading.summary(digest).get("by_reason", {}), name="documents").sort_values(ascending=False)
    st.bar_chart(reasons, horizontal=True, height=28 * len(reasons) + 40)
    if "dropped.jsonl" not in reading.files(digest):
        return
    samples = pd.DataFrame(reading.read_json_lines(digest, "dropped.jsonl"))
    if not samples.empty:
        reason = st.selectbox("Samples of", ["all reasons", *sorted(samples["reason"].unique())])
        shown = samples if reason == "all reasons" else samples[samples["reason"] == reason]
        st.dataframe(shown, hide_index=True, width="stretch")


def show_quality(digest: str | None) -> None:
    if digest is None:
        st.info("No document has been scored yet.")
        return
    samples = pd.DataFrame(reading.read_json_lines(digest, "samples.jsonl"))
    scores = [c for c in samples.columns if pd.api.types.is_float_dtype(samples[c])]
    dimension = st.selectbox("Dimension", scores, index=scores.index("overall") if "overall" in scores else 0)
    st.altair_chart(
        alt.Chart(samples).mark_bar().encode(x=alt.X(dimension, bin=alt.Bin(maxbins=30)), y="count()", color="kept:N"),
        width="stretch",
    )
    for title, kept in (("Kept", True), ("Dropped", False)):
        st.subheader(title)
        st.dataframe(samples[samples["kept"] == kept].head(20), hide_index=True, width="stretch")


def show_sources(digest: str | None) -> None:
    if digest is None:
        st.info("Nothing has been ingested yet.")
        return
    summary = reading.summary(digest)
    columns = {"documents": "by_source", "bytes": "bytes_by_source", "licence": "licences"}
    table = pd.DataFrame({name: pd.Series(summary.get(key, {})) for name, key in columns.items()})
    st.dataframe(table.reset_index(names="source"), hide_index=True, width="stretch")
