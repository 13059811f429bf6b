"""Moving an alias from the page: a promotion goes through the gate, in a process of its own that the page looks at."""

from pathlib import Path

import pandas as pd
import streamlit as st

from dashboard import reading
from dashboard.access import Person
from infra.catalog.gates import SHORTEST_REASON, at_work
from infra.catalog.models import Gate
from infra.errors import InfraError
from infra.jobs import start_job


def show(digest: str, who: Person) -> None:
    """What an alias means is what is served under it: moving it is measured, asked twice and written into the audit."""
    st.subheader("Aliases")
    now = reading.catalog().aliases()  # not from a cache: what is moved must be what is shown
    gate = next(iter(reading.gates().recent(1, after=digest)), None)
    if gate and at_work(gate):
        watch_gate(gate.id)
    elif gate:
        show_verdict(gate, who)
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
        confirm_promotion(alias, now.get(alias), digest, who)
    elif roll_back and back:
        confirm_step_back(back, now[back], past[back], who)


def earlier(alias: str, current: str) -> str | None:
    """What an alias meant before what it means now."""
    return next((p.digest for p in reading.promotions() if p.alias == alias and p.digest != current), None)


@st.dialog("Promote")
def confirm_promotion(alias: str, before: str | None, after: str, who: Person) -> None:
    st.write(f"`{alias}` means `{before[:12] if before else 'nothing'}` and is to mean `{after[:12]}`. "
             "Both are measured on the fixed suite first, which takes minutes; the alias moves unless the new one is "
             "significantly worse. Whoever serves it answers with the other checkpoint from then on.")  # fmt: skip
    if not can_move(before, after) or not st.button(f"Yes, promote {alias}", type="primary"):
        return
    try:
        gate = reading.gates().ask(alias, after, who=who.name)
    except InfraError as error:
        st.error(str(error))
        return
    gates = reading.gates()

    def ended(code: int, last_line: str) -> None:
        gates.fail(gate.id, last_line or f"its process ended with exit code {code}")

    start_job("flows.promotion", [str(gate.id)], log_of(gate.id), ended)
    st.rerun()


@st.dialog("Roll back")
def confirm_step_back(alias: str, before: str, after: str, who: Person) -> None:
    st.write(f"`{alias}` means `{before[:12]}` and is to mean `{after[:12]}` again, at once and without measuring.")
    reason = st.text_input("Reason, for the audit")
    if not can_move(before, after) or not st.button(f"Yes, roll back {alias}", type="primary"):
        return
    if len(reason.strip()) < SHORTEST_REASON:
        st.error(f"Say why, in at least {SHORTEST_REASON} letters.")
        return
    try:
        reading.catalog().set_alias(
            alias, after, who=who.name, action="roll back", expected=before, reason=reason.strip()
        )
    except InfraError as error:
        st.error(str(error))
        return
    forget_aliases()
    st.rerun()


def can_move(before: str | None, after: str) -> bool:
    if before == after:
        st.warning("It means this checkpoint already.")
    elif not reading.store().exists(after):
        st.error("This checkpoint is no longer in the store: nobody could serve it.")
    else:
        return True
    return False


@st.fragment(run_every=2)
def watch_gate(gate_id: int) -> None:
    """How far a promotion is; when it has ended, the whole page shows something else."""
    gate = reading.gates().get(gate_id)
    if at_work(gate):
        doing = gate.doing or "starting"
        st.progress(gate.progress or 0.0, text=f"Promotion to `{gate.alias}`, asked for by {gate.who}: {doing}")
        return
    forget_aliases()
    st.rerun()


def show_verdict(gate: Gate, who: Person) -> None:
    """What the last promotion of a checkpoint has found, and the way around it."""
    when = f"{gate.ended_at or gate.asked_at:%d %b %H:%M}"
    if gate.state == "passed":
        st.success(f"Promoted to `{gate.alias}` for {gate.who}, {when}: nothing is significantly worse.")
    elif gate.state == "refused":
        st.error(f"`{gate.alias}` stays with `{str(gate.before)[:12]}` ({when}): worse in {', '.join(gate.worse)}.")
    else:
        why = gate.error or "its process is gone"
        st.error(f"The promotion to `{gate.alias}` could not be measured ({when}): {why}")
    if gate.differences:
        st.dataframe(differences(gate), hide_index=True, width="stretch")
    if gate.state != "passed" and who.may("operator") and reading.catalog().resolve_alias(gate.alias) == gate.before:
        override(gate, who)


def differences(gate: Gate) -> pd.DataFrame:
    rows = [
        {
            "metric": row["metric"], "difference": row["difference"]["value"], "low": row["difference"]["low"],
            "high": row["difference"]["high"], "items": row["difference"]["n"], "p worse": row["worse_p"],
            "Holm": row["worse_p_holm"], "worse": row["metric"] in gate.worse,
        }
        for row in gate.differences
    ]  # fmt: skip
    return pd.DataFrame(rows)


def override(gate: Gate, who: Person) -> None:
    with st.expander("Promote all the same"), st.form("override", border=False):
        reason = st.text_area("Reason, for the audit", key="override_reason")
        if not st.form_submit_button(f"Move {gate.alias} against the gate"):
            return
        try:
            reading.gates().override(gate.id, who=who.name, reason=reason)
        except InfraError as error:
            st.error(str(error))
            return
    forget_aliases()
    st.rerun()


def forget_aliases() -> None:
    for cached in (reading.aliases, reading.promotions, reading.checkpoints):
        cached.clear()


def log_of(gate_id: int) -> Path:
    return reading.settings().home / "promotions" / f"gate-{gate_id}.log"
