"""The machine, the places where things are kept, and every run that the catalog knows."""

import shutil

import pandas as pd
import streamlit as st

from dashboard import reading
from infra.hardware import describe_host


def show(run_id: str) -> None:
    settings = reading.settings()
    host = describe_host()
    st.subheader("This host")
    st.dataframe(pd.Series(host, name="value").astype(str), width="stretch")
    st.subheader("Storage")
    usage = shutil.disk_usage(settings.home)
    st.progress(usage.used / usage.total, text=f"{usage.free / 1e9:.1f} GB free of {usage.total / 1e9:.1f} GB")
    stored = pd.DataFrame(
        [(m.kind, 1, sum(file.size for file in m.files)) for m in reading.store().list()],
        columns=["kind", "artifacts", "bytes"],
    )
    if len(stored):
        st.dataframe(stored.groupby("kind").sum().reset_index(), hide_index=True)
    st.subheader("Runs")
    runs = reading.runs()
    counts = runs["state"].value_counts()
    for column, (state, count) in zip(st.columns(max(1, len(counts))), counts.items(), strict=False):
        column.metric(str(state), int(count))
    st.dataframe(runs, hide_index=True, width="stretch")
