"""The fitted scaling laws: the sweep's points, the optima, exponents with intervals, prediction beside outcome."""

import altair as alt
import pandas as pd
import streamlit as st

from dashboard import reading

LOSS = {
    "E": "irreducible", "A": "parameters_scale", "alpha": "parameters_exponent", "B": "tokens_scale",
    "beta": "tokens_exponent",
}  # fmt: skip


def show(run_id: str) -> None:
    digest = reading.artifact_of(run_id, "scaling")
    if digest is None:
        st.info("The sweep of this run has not finished. Its law appears here.")
        return
    law = reading.read_json(digest, "law.json")
    points = pd.DataFrame(law["points"])
    points["model and tokens"] = [
        f"{size / 1e6:.2f}M, {tokens / 1e3:.0f}k"
        for size, tokens in zip(points["parameters"], points["tokens"], strict=True)
    ]
    base = alt.Chart(points).encode(
        y=alt.Y("loss", scale=alt.Scale(zero=False)), color="model and tokens", tooltip=list(points.columns)
    )
    left, right = st.columns(2)
    rate = alt.X("learning_rate", scale=alt.Scale(type="log"), title="learning rate")
    batch = alt.X("batch_tokens", scale=alt.Scale(type="log"), title="batch, tokens")
    left.altair_chart(base.mark_line(point=True).encode(x=rate, detail="batch_tokens"), width="stretch")
    right.altair_chart(base.mark_line(point=True).encode(x=batch, detail="learning_rate"), width="stretch")
    st.subheader("Fitted laws")
    st.latex(r"\eta = c\,N^{a}D^{b} \qquad B = c\,N^{a}D^{b} \qquad L = E + A\,N^{-\alpha} + B\,D^{-\beta}")
    st.dataframe(exponents(law), hide_index=True, width="stretch")
    st.caption("An exponent whose interval is a point was taken from the literature: the sweep could not fit it.")
    st.subheader("Optima found by the sweep")
    st.dataframe(pd.DataFrame(law["optima"]), hide_index=True, width="stretch")
    effects = reading.summary(digest).get("effects", [])
    st.subheader("Prediction beside outcome")
    st.dataframe(
        pd.DataFrame(effects)[["name", "value", "baseline", "note"]] if effects else pd.DataFrame(),
        hide_index=True, width="stretch",
    )  # fmt: skip


def exponents(law: dict) -> pd.DataFrame:
    rows = []
    for name, title in (("learning_rate", "learning rate"), ("batch_tokens", "batch, tokens")):
        fit = law[name]
        for of in ("parameters", "tokens"):
            low, high = fit[f"exponent_{of}_interval"]
            rows.append((title, f"exponent of {of}", fit[f"exponent_{of}"], low, high))
    for symbol, (low, high) in law["loss"]["intervals"].items():
        rows.append(("loss", symbol, law["loss"][LOSS[symbol]], low, high))
    return pd.DataFrame(rows, columns=["law", "quantity", "value", "low", "high"])
