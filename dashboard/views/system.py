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
    st.table(pd.Series(host, name="value").astype(str))
    st.subheader("Storage")
    usage = shutil.disk_usage(settings.home)
    st.progress(usage.used / usage.total, text=f"{usage.free / 1e9:.1f} GB free of {usage.total / 1e9:.1f} GB")
    if stored := reading.views().stored_by_kind():
        table = pd.DataFrame(stored)
        table["megabytes"] = (table.pop("bytes") / 1e6).round(1)
        st.table(table.set_index("kind"))
    st.subheader("Runs")
    states = reading.views().run_states()
    for column, (state, count) in zip(st.columns(max(1, len(states))), states.items(), strict=True):
        column.metric(state, f"{count:,}")
    st.caption("The newest 200; the choice of runs at the side finds all")
    runs = reading.runs().head(200)
    st.dataframe(
        runs.assign(open="/?run=" + runs["id"]), hide_index=True, width="stretch",
        column_config={"open": st.column_config.LinkColumn(display_text="open")},
    )  # fmt: skip
