"""How far labellers agree with one another and with the verifier: Cohen's kappa, overall and by criterion."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import pandas as pd
import streamlit as st

from components.evaluation.agreement import cohens_kappa
from dashboard import reading
from infra.catalog import CRITERIA
from infra.catalog.reviews import Judged

VERIFIER = "the verifier"


def show() -> None:
    judged = reading.reviews().judged()
    if not judged:
        st.info("Nobody has judged a pair yet. The tab Label shows one after the other.")
        return
    people = sorted({review.labeller for pair in judged for review in pair.reviews})
    verdicts = {name: by_key(judged, name) for name in people}
    verdicts[VERIFIER] = {pair.item.key: pair.item.automated for pair in judged}
    rows = []
    for one, other in combinations([*people, VERIFIER], 2):
        found = cohens_kappa(verdicts[one], verdicts[other])
        row = {"labeller": one, "and": other, "pairs": found.n, "same verdict": found.agreement, "kappa": found.kappa}
        if other != VERIFIER:
            row |= {
                name: cohens_kappa(by_key(judged, one, name), by_key(judged, other, name)).kappa for name in CRITERIA
            }
        rows.append(row)
    st.subheader("Agreement")
    st.dataframe(
        pd.DataFrame(rows), hide_index=True, width="stretch",
        column_config={"same verdict": st.column_config.NumberColumn(format="percent")},
    )  # fmt: skip
    st.caption("Kappa is agreement beyond chance: 1 complete, 0 none. It is empty where chance explains everything.")
    st.subheader("Labellers")
    st.dataframe(pd.DataFrame([habits(judged, name) for name in people]), hide_index=True, width="stretch")


def by_key(judged: Sequence[Judged], labeller: str, criterion: str = "") -> dict[str, str]:
    """What a labeller said of every pair, in all or on one criterion."""
    reviews = [review for pair in judged for review in pair.reviews if review.labeller == labeller]
    if not criterion:
        return {review.key: review.verdict for review in reviews}
    return {review.key: review.criteria[criterion] for review in reviews if criterion in review.criteria}


def habits(judged: Sequence[Judged], labeller: str) -> dict[str, Any]:
    """Pace, and whether the side an answer lay on decides: half of the winners should have lain on the left."""
    reviews = [review for pair in judged for review in pair.reviews if review.labeller == labeller]
    decided = [review for review in reviews if review.verdict in ("a", "b")]
    left = sum((review.verdict == "b") == review.swapped for review in decided)
    return {
        "labeller": labeller, "pairs": len(reviews),
        "median seconds": round(float(pd.Series([review.seconds for review in reviews]).median()), 1),
        "winner on the left": f"{left} of {len(decided)}",
        "ties": sum(review.verdict == "tie" for review in reviews),
        "neither good": sum(review.verdict == "bad" for review in reviews),
    }  # fmt: skip
