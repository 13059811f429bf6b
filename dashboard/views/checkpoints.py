"""Checkpoints: what each was made from, its figures, what aliases mean and meant, and moving them."""

import pandas as pd
import streamlit as st

from dashboard import reading
from dashboard.access import Person, access, person
from infra.errors import InfraError


def show(run_id: str) -> None:
    table = reading.checkpoints()
    if table.empty:
        st.info("No checkpoint exists yet: the first one appears here when the stage `pretrain` has finished.")
        return
    table = table.assign(megabytes=(table["bytes"] / 1e6).round(1))
    st.dataframe(
        table[["alias", "stage", "created_at", "megabytes", "final_loss", "digest"]], hide_index=True, width="stretch",
        height=300,
    )  # fmt: skip
    named = table.sort_values("alias", key=lambda alias: alias == "", kind="stable")  # those with an alias first
    labels = {row.digest: f"{row.alias or row.stage} · {row.digest[:12]}" for row in named.itertuples()}
    digests = list(labels)
    asked = st.query_params.get("checkpoint", digests[0])
    digest = st.selectbox(
        "Checkpoint", digests, index=digests.index(asked) if asked in labels else 0, format_func=lambda d: labels[d]
    )
    st.query_params["checkpoint"] = digest
    left, right = st.columns([3, 2])
    with left:
        st.subheader("Made from")
        st.graphviz_chart(lineage_graph(digest), width="stretch")
    with right:
        st.subheader("Figures")
        summary = {k: v for k, v in reading.known_summary(digest).items() if isinstance(v, int | float | str)}
        st.dataframe(pd.Series(summary, name="value").astype(str), width="stretch")
        st.code(f"qwenforge chat {digest[:12]}\nqwenforge export {digest[:12]} FOLDER\n"
                f"qwenforge artifacts verify {digest[:12]}", language="bash")  # fmt: skip
    move_alias(digest, person())
    show_history()


def move_alias(digest: str, who: Person) -> None:
    """What an alias means is what is served under it: moving it is asked twice and written into the audit."""
    st.subheader("Aliases")
    now = reading.catalog().aliases()  # not from a cache: what is moved must be what is shown
    if not who.may("operator"):
        st.info("Operators may promote this checkpoint; this dashboard or your role lets you look only.")
        return
    left, right = st.columns(2)
    with left.form("promote"):
        alias = st.selectbox("Promote this checkpoint to", sorted(now) or ["rl"], accept_new_options=True, key="alias")
        promote = st.form_submit_button("Promote ...")
    past = {alias: before for alias, current in now.items() if (before := earlier(alias, current))}
    with right.form("roll back"):
        back = st.selectbox(
            "Roll back", sorted(past), format_func=lambda name: f"{name}: {now[name][:12]} → {past[name][:12]}",
            placeholder="No alias has meant anything else before",
        )  # fmt: skip
        roll_back = st.form_submit_button("Roll back ...", disabled=not past)
    if promote and alias:
        confirm(alias, now.get(alias), digest, "promote", who)
    elif roll_back and back:
        confirm(back, now[back], past[back], "roll back", who)


def earlier(alias: str, current: str) -> str | None:
    """What an alias meant before what it means now."""
    return next((p.digest for p in reading.promotions() if p.alias == alias and p.digest != current), None)


@st.dialog("Move an alias")
def confirm(alias: str, before: str | None, after: str, action: str, who: Person) -> None:
    st.write(f"`{alias}` means `{before[:12] if before else 'nothing'}` and is to mean `{after[:12]}`. "
             "Whoever serves this alias answers with the other checkpoint from then on.")  # fmt: skip
    if before == after:
        st.warning("It means this checkpoint already.")
        return
    if not reading.store().exists(after):
        st.error("This checkpoint is no longer in the store: nobody could serve it.")
        return
    if not st.button(f"Yes, {action} {alias}", type="primary"):
        return
    try:
        reading.catalog().set_alias(alias, after, who=who.name, action=action, expected=before)
    except InfraError as error:
        st.error(str(error))
        return
    for cached in (reading.aliases, reading.promotions, reading.checkpoints):
        cached.clear()
    st.rerun()


def show_history() -> None:
    promotions, audit = st.tabs(["Promotions", "Audit"])
    history = [(p.alias, p.digest[:12], p.since, p.run_id or "") for p in reading.promotions()]
    promotions.dataframe(
        pd.DataFrame(history, columns=["alias", "checkpoint", "since", "run"]), hide_index=True, width="stretch"
    )
    rows = [(e.at, e.who, e.action, e.subject, short(e.before), short(e.after)) for e in access().audit()]
    audit.dataframe(
        pd.DataFrame(rows, columns=["when", "who", "what", "on", "from", "to"]), hide_index=True, width="stretch"
    )


def short(value: str | None) -> str:
    return value[:12] if value and len(value) == 64 else value or ""


@st.cache_data
def lineage_graph(digest: str) -> str:
    lineage = reading.catalog().lineage(digest)
    lines = ["digraph {", "rankdir=LR; bgcolor=transparent; nodesep=0.15;",
             'node [shape=box style="filled,rounded" fillcolor="#2f6fde" fontcolor=white fontname="sans-serif" '
             "fontsize=11];", 'edge [color="#9aa3b2" fontsize=9 fontcolor="#9aa3b2"];']  # fmt: skip
    lines += [f'"{a.digest}" [label="{a.stage}\\n{a.digest[:8]}"];' for a in lineage.artifacts]
    lines += [f'"{edge.parent}" -> "{edge.child}" [label="{edge.input_name}"];' for edge in lineage.edges]
    return "\n".join([*lines, "}"])
