"""The dashboard: ``streamlit run dashboard/app.py``, or ``qwenforge dashboard``.

Every page shows the run that is chosen in the side bar; run and page stand in the address, so any view can be linked.
"""

import streamlit as st

from dashboard import access, reading
from dashboard.views import checkpoints, data, evaluation, overview, playground, preferences, scaling, system, training

PAGES = {
    "overview": (overview, "Overview", ":material/account_tree:"),
    "training": (training, "Training", ":material/show_chart:"),
    "data": (data, "Data", ":material/filter_alt:"),
    "scaling": (scaling, "Scaling laws", ":material/stacked_line_chart:"),
    "checkpoints": (checkpoints, "Checkpoints", ":material/inventory_2:"),
    "preferences": (preferences, "Preferences", ":material/thumbs_up_down:"),
    "evaluation": (evaluation, "Evaluation", ":material/fact_check:"),
    "playground": (playground, "Playground", ":material/forum:"),
    "system": (system, "System", ":material/memory:"),
}


def main() -> None:
    st.set_page_config(page_title="qwenforge", page_icon=":material/precision_manufacturing:", layout="wide")
    entered = access.enter()
    run_id = choose_run() if entered else None
    # Whoever has to log in first is asked at the address that he came to, and stays there.
    pages = [
        st.Page(
            page_of(name, run_id) if entered else access.ask, title=title, icon=icon, url_path=name,
            default=name == "overview",
        )
        for name, (_, title, icon) in PAGES.items()
    ]  # fmt: skip
    st.navigation(pages, position="sidebar" if entered else "hidden").run()


def choose_run() -> str | None:
    """The run in the address, or the latest; None where no run was ever started."""
    runs = reading.runs()
    if runs.empty:
        return None
    known = list(runs["id"])
    labels = {row.id: f"{row.name} · {row.started:%d %b %H:%M} · {row.state}" for row in runs.itertuples()}
    asked = st.query_params.get("run", known[0])
    chosen = st.sidebar.selectbox(
        "Run", known, index=known.index(asked) if asked in labels else 0, format_func=lambda known_id: labels[known_id]
    )
    st.query_params["run"] = chosen
    st.sidebar.caption(f"`{chosen}`")
    return chosen


def page_of(name: str, run_id: str | None):
    """A page as the function that Streamlit wants; without any run every page says how to start one."""

    def show() -> None:
        module, title, _ = PAGES[name]
        st.title(title)
        if run_id is None and getattr(module, "NEEDS_RUN", True):
            st.info("There is no run yet. Start one in a terminal: `make run`, or `qwenforge run recipes/pocket.toml`.")
        else:
            module.show(run_id)

    show.__name__ = name
    return show


main()
