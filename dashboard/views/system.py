"""Hosts and the processes of what runs here, Prefect's queue, where things are kept, every run of the catalog."""

import shutil
import socket
from typing import Any

import pandas as pd
import streamlit as st

from dashboard import prefect_queue, reading


def show(run_id: str) -> None:
    live()
    settings = reading.settings()
    st.subheader("Storage")
    usage = shutil.disk_usage(settings.home)
    st.progress(usage.used / usage.total, text=f"{usage.free / 1e9:.1f} GB free of {usage.total / 1e9:.1f} GB")
    st.caption(f"Artifacts: `{settings.artifacts_uri}`")
    if stored := reading.views().stored_by_kind():
        table = pd.DataFrame(stored)
        table["megabytes"] = (table.pop("bytes") / 1e6).round(1)
        st.dataframe(table, hide_index=True)
    st.subheader("Runs")
    states = reading.views().run_states()
    for column, (state, count) in zip(st.columns(max(1, len(states))), states.items(), strict=True):
        column.metric(state, f"{count:,}")
    st.caption("The newest 1,000")
    runs = reading.runs()
    st.dataframe(
        runs.assign(open="/?run=" + runs["id"]), hide_index=True, width="stretch",
        column_config={"open": st.column_config.LinkColumn(display_text="open")},
    )  # fmt: skip
    with st.expander("This host"):
        st.dataframe(pd.Series(reading.host(), name="value").astype(str), width="stretch")


@st.fragment(run_every=reading.LIVE_SECONDS)
def live() -> None:
    st.subheader("Hosts")
    st.dataframe(pd.DataFrame(reading.views().hosts()), hide_index=True, width="stretch")
    st.subheader("Processes and ranks")
    rows = [row for run in reading.views().running() if run["host"] == socket.gethostname() for row in processes(run)]
    if rows:
        st.dataframe(
            pd.DataFrame(rows), hide_index=True, width="stretch",
            column_config={"cpu": st.column_config.NumberColumn("CPU, %", format="%.0f"),
                           "memory": st.column_config.NumberColumn("memory, GB", format="%.2f")},
        )  # fmt: skip
    else:
        st.info("No run is at work on this host. `qwenforge run RECIPE` starts one; those elsewhere are under Hosts.")
    st.subheader("Queue")
    prefect_queue.show()


def processes(run: dict[str, Any]) -> list[dict[str, Any]]:
    """The process that drives a run and its children: run, pid, rank (of a training stage's processes), cpu, memory."""
    import psutil

    try:
        root = psutil.Process(run["pid"])
        found = [root, *root.children(recursive=True)]
    except psutil.Error:
        return []
    rows = []
    for process in found:
        try:
            with process.oneshot():
                seconds = max(1e-3, pd.Timestamp.now().timestamp() - process.create_time())
                used = process.cpu_times()
                rank = process.environ().get("RANK", "") if process.pid != root.pid else ""
                rows.append(
                    {
                        "run": run["name"], "pid": process.pid, "rank": rank, "program": process.name(),
                        # since it started: the moment alone says little of a process that loads, computes and saves
                        "cpu": 100 * (used.user + used.system) / seconds, "memory": process.memory_info().rss / 1e9,
                    }
                )  # fmt: skip
        except psutil.Error:  # it has just ended, or is somebody else's
            continue
    return rows
