"""One artifact's files: download them, and have every byte of it verified in the background."""

import time
from pathlib import Path

import streamlit as st

from dashboard import reading
from dashboard.access import Person
from infra.errors import InfraError
from infra.jobs import start_job

LARGEST = 500_000_000
"""Bytes that are passed through the browser; more is for ``qwenforge export``."""


def show(digest: str, who: Person) -> None:
    try:
        table = reading.file_table(digest)
    except InfraError:
        st.info("This artifact is no longer in the store; the catalog alone remembers it.")
        return
    st.dataframe(table, hide_index=True, width="stretch", height=min(400, 38 * (len(table) + 1)))
    left, right = st.columns(2)
    with left:
        name = st.selectbox("File", list(table["file"]), key="file")
        size = int(table.loc[table["file"] == name, "bytes"].iloc[0])
        if size > LARGEST:
            st.caption(f"{size / 1e9:.1f} GB: `qwenforge export {digest[:12]} FOLDER`")
        else:
            # read when it is clicked, not when the page is drawn
            st.download_button(
                "Download", data=lambda: reading.store().read(digest, name), file_name=Path(name).name, key="download",
                on_click="ignore",
            )  # fmt: skip
    with right:
        verify(digest, who)


def verify(digest: str, who: Person) -> None:
    """``qwenforge artifacts verify`` in a process of its own: it reads every stored byte again."""
    results = verdicts()
    if who.may("operator") and st.button("Verify every byte", disabled=results.get(digest) == ""):
        results[digest] = ""

        log = reading.settings().home / "logs" / f"verify-{digest[:12]}-{int(time.time())}.log"

        def ended(code: int, last_line: str) -> None:
            # which file is damaged stands above the last line
            results[digest] = "whole" if code == 0 else log.read_text(errors="replace")[-2000:] or f"exit code {code}"

        start_job("flows.cli", ["artifacts", "verify", digest], log, ended)
    found = results.get(digest)
    if found == "":
        wait(digest)
    elif found == "whole":
        st.success("Every byte is as it was committed.")
    elif found:
        st.error(found)


@st.fragment(run_every=2)
def wait(digest: str) -> None:
    if verdicts().get(digest) == "":
        st.info("Verifying ...")
    else:
        st.rerun()


@st.cache_resource
def verdicts() -> dict[str, str]:
    """Digest -> what its last verification has said; empty while it is at work. Of this server alone."""
    return {}
