"""What became of the documents: the funnel, why they were dropped with samples, quality, mixture before and after."""

import altair as alt
import pandas as pd
import streamlit as st

from dashboard import reading

FUNNEL = ("ingest", "clean", "deduplicate", "quality", "domains", "mixture", "decontaminate")


def show(run_id: str) -> None:
    made = {stage: digest for stage in FUNNEL if (digest := reading.artifact_of(run_id, stage))}
    if not made:
        st.info("No data stage of this run has finished yet. `ingest` is the first; what it reads is in the recipe.")
        return
    views = {
        "Funnel": lambda: show_funnel(made),
        "Mixture": lambda: show_mixture(made.get("mixture")),
        "Kept": lambda: show_kept(made),
        "Dropped": lambda: show_dropped(made),
        "Quality": lambda: show_quality(made.get("quality")),
        "Sources": lambda: show_sources(made.get("ingest")),
    }
    for tab, view in zip(st.tabs(list(views), key="tab", bind="query-params"), views.values(), strict=True):
        if tab.open:
            with tab:
                view()


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


def show_kept(made: dict[str, str]) -> None:
    """Documents as they go on to training, by domain and language."""
    stage = next((stage for stage in reversed(FUNNEL) if stage in made), None)
    table = reading.read_parquet_head(made[stage], "documents-00000.parquet", 5000) if stage else pd.DataFrame()
    if table.empty:
        st.info("No document has been kept yet.")
        return
    left, right = st.columns(2)
    domain = left.selectbox("Domain", ["all", *sorted(table["domain"].unique())], key="domain", bind="query-params")
    language = right.selectbox(
        "Language", ["all", *sorted(table["language"].unique())], key="language", bind="query-params"
    )
    for column, value in (("domain", domain), ("language", language)):
        table = table if value == "all" else table[table[column] == value]
    st.caption(f"{len(table):,} of the first 5,000 documents after `{stage}`; 50 of them")
    shown = table.head(50)
    st.dataframe(
        shown.assign(text=shown["text"].str.slice(0, 600))[["domain", "language", "source", "copies", "text"]],
        hide_index=True, width="stretch",
    )  # fmt: skip


def show_dropped(made: dict[str, str]) -> None:
    """By the filters with their reasons, as copies of others, and for resembling a test."""
    if digest := made.get("clean"):
        reasons = pd.Series(reading.summary(digest).get("by_reason", {}), name="documents").sort_values(ascending=False)
        st.bar_chart(reasons, horizontal=True, height=28 * len(reasons) + 40)
        samples = lines(digest, "dropped.jsonl")
        if not samples.empty:
            reason = st.selectbox(
                "Samples of", ["all reasons", *sorted(samples["reason"].unique())], key="reason", bind="query-params"
            )
            shown = samples if reason == "all reasons" else samples[samples["reason"] == reason]
            st.dataframe(shown, hide_index=True, width="stretch")
    else:
        st.info("Nothing has been cleaned yet.")
    for stage, file, title in (
        ("deduplicate", "clusters.jsonl", "Copies, and the document that was kept for each"),
        ("decontaminate", "matches.jsonl", "Documents that held a test item"),
    ):
        found = lines(made[stage], file) if stage in made else pd.DataFrame()
        if not found.empty:
            st.subheader(title)
            st.dataframe(found, hide_index=True, width="stretch", height=260)


def lines(digest: str, file: str) -> pd.DataFrame:
    """The first 500 rows of a JSON-lines file, where the artifact has it."""
    return pd.DataFrame(reading.read_json_lines(digest, file) if file in reading.files(digest) else [])


def show_quality(digest: str | None) -> None:
    if digest is None:
        st.info("No document has been scored yet.")
        return
    samples = pd.DataFrame(reading.read_json_lines(digest, "samples.jsonl"))
    scores = [c for c in samples.columns if pd.api.types.is_float_dtype(samples[c])]
    dimension = st.selectbox(
        "Dimension", scores, index=scores.index("overall") if "overall" in scores else 0, key="dimension",
        bind="query-params",
    )  # fmt: skip
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
