"""What Prefect has running and waiting, asked of its API; nothing where no server is known."""

import os
from typing import Any

import httpx
import pandas as pd
import streamlit as st

STATES = ("RUNNING", "PENDING", "SCHEDULED", "PAUSED", "CANCELLING")
MOST = 200  # Prefect's own limit on one answer


@st.cache_data(ttl=5)
def flow_runs(api: str) -> list[dict[str, Any]]:
    """Unfinished flow runs, in the order in which they are to start. Raises httpx.HTTPError."""
    asked = {
        "flow_runs": {"state": {"type": {"any_": list(STATES)}}}, "sort": "EXPECTED_START_TIME_ASC", "limit": MOST,
    }  # fmt: skip
    answer = httpx.post(f"{api}/flow_runs/filter", json=asked, timeout=5)
    answer.raise_for_status()
    return answer.json()


def show() -> None:
    api = os.environ.get("PREFECT_API_URL", "")
    if not api:
        st.info(
            "No Prefect server is known here: `qwenforge stack up` starts one with this page beside it, or set "
            "`PREFECT_API_URL`."
        )
        return
    try:
        found = flow_runs(api)
    except (httpx.HTTPError, ValueError) as error:
        st.warning(f"Prefect at {api} does not answer: {error}")
        return
    if not found:
        st.info("Nothing runs or waits. `qwenforge deploy RECIPE` registers a recipe; Prefect's page has a Run button.")
        return
    page = os.environ.get("PREFECT_UI_URL") or api.removesuffix("/api")
    rows = [
        {
            "run": run["name"], "state": run["state"]["name"], "expected": pd.to_datetime(run["expected_start_time"]),
            "pool": run["work_pool_name"], "starts": run["run_count"], "tags": ", ".join(run["tags"]),
            "open": f"{page}/runs/flow-run/{run['id']}",
        }
        for run in found
    ]  # fmt: skip
    st.dataframe(
        pd.DataFrame(rows), hide_index=True, width="stretch",
        column_config={"open": st.column_config.LinkColumn(display_text="open")},
    )  # fmt: skip
