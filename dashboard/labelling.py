"""The labelling view: two answers, blind and in an order of chance, judged from the keyboard."""

import json
import time
from typing import get_args

import pandas as pd
import streamlit as st

from dashboard import reading
from dashboard.access import Person
from infra.catalog import CRITERIA, ReviewItem
from infra.catalog.reviews import Verdict, item_of, shown_swapped

LEFT, RIGHT = "left", "right"
VERDICTS = {  # what is pressed -> label, verdict by side
    "Left": ("Left is better", LEFT), "Right": ("Right is better", RIGHT), "Down": ("Equally good", "tie"),
    "X": ("Neither is good", "bad"),
}  # fmt: skip
TURN = {None: LEFT, LEFT: RIGHT, RIGHT: "tie", "tie": None}
"""A criterion's key pressed again and again: left, right, equal, not said."""
LONGEST = 900.0
"""Seconds on one pair that count as work; more was a pause."""


def show(person: Person) -> None:
    if not person.may("labeller"):
        st.info("Labellers may judge pairs; this dashboard or your role lets you look only.")
        return
    reviews = reading.reviews()
    waiting, judged, own = reviews.counts(person.name)
    item = reviews.next_for(person.name)
    if item is None:
        done = f"You have judged all {waiting} pairs in the queue." if waiting else "The review queue is empty."
        st.info(f"{done} Queue more on the tab Pairs, or with `qwenforge reviews queue`.")
    else:
        judge(item, person)
    st.button("Take back my last verdict", shortcut="U", on_click=take_back, args=(person.name,), disabled=not own)
    st.caption(f"{own} judged by {person.name}, {judged} of {waiting} by anybody. "
               "`qwenforge reviews export FILE` hands the verdicts to `[pairs] reviews`.")  # fmt: skip


def judge(item: ReviewItem, person: Person) -> None:
    """One pair on the page. Its sides are this labeller's own, and the same if he comes back to it."""
    swapped = shown_swapped(item.key, person.name)
    if st.session_state.get("judging") != item.key:
        st.session_state.update(judging=item.key, judging_since=time.monotonic(), criteria={})
    for message in item.messages:
        st.chat_message(message["role"]).write(message["content"])
    texts = (item.answer_b, item.answer_a) if swapped else (item.answer_a, item.answer_b)
    for column, side, text in zip(st.columns(2), (LEFT, RIGHT), texts, strict=True):
        column.container(border=True, height=280, key=f"answer_{side}").text(text)
    columns = st.columns(len(VERDICTS))
    for column, (key, (label, side)) in zip(columns, VERDICTS.items(), strict=True):
        column.button(
            label,
            shortcut=key,
            type="primary",
            width="stretch",
            on_click=submit,
            args=(item.key, swapped, side, person),
        )
    said: dict[str, str] = st.session_state["criteria"]
    for number, (column, name) in enumerate(zip(st.columns(len(CRITERIA)), CRITERIA, strict=True), 1):
        column.button(
            f"{name}: {said.get(name, '–')}", key=f"criterion_{name}", shortcut=str(number), width="stretch",
            on_click=turn, args=(name,), help="Which answer is better in this: left, right, equal (tie), or not said",
        )  # fmt: skip


def turn(criterion: str) -> None:
    said = st.session_state["criteria"]
    following = TURN[said.get(criterion)]
    said.pop(criterion, None)
    if following:
        said[criterion] = following


def submit(key: str, swapped: bool, side: str, person: Person) -> None:
    """Write a verdict down, by what lay on which side."""

    def meant(side: str) -> str:
        if side not in (LEFT, RIGHT):
            return side
        return "b" if (side == LEFT) == swapped else "a"

    verdict = meant(side)
    assert verdict in get_args(Verdict)
    seconds = min(LONGEST, time.monotonic() - st.session_state["judging_since"])
    criteria = {name: meant(better) for name, better in st.session_state["criteria"].items()}
    reading.reviews().submit(
        key, person.name, verdict, seconds=seconds, swapped=swapped, criteria=criteria  # type: ignore[arg-type]
    )  # fmt: skip


def take_back(name: str) -> None:
    reading.reviews().undo(name)


def queue_form(pairs: pd.DataFrame, digest: str, person: Person) -> None:
    """Put pairs of this run before people."""
    if not person.may("labeller"):
        return
    with st.form("queue", border=False):
        count = st.number_input("Pairs for people to judge", 1, len(pairs), min(100, len(pairs)))
        if st.form_submit_button("Queue them"):
            rows = [pairs.iloc[i * len(pairs) // int(count)] for i in range(int(count))]  # evenly over the families
            items = [item_of({**row, "messages": json.loads(row["messages"])}, digest) for row in rows]
            st.success(f"{reading.reviews().queue(items)} pairs queued.")
