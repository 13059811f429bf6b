"""The fitted scaling laws: the sweep's points, the optima, exponents with intervals, prediction beside outcome."""

import altair as alt
import pandas as pd
import streamlit as st

from dashboard import reading

LOSS = {
    "E": "irreducible", "A": "parameters_scale", "alpha": "parameters_exponent", "B": "tokens_scale",
    "beta": "tokens_exponent",
}  # fmt: skip


KINDS = {"scaling": "this recipe's", "law-dense": "dense", "law-moe": "mixture of experts"}
"""Stages that fit a law: that of a recipe that trains, and those of a scaling study."""


def show(run_id: str) -> None:
    laws = {title: (stage, made) for stage, title in KINDS.items() if (made := reading.artifact_of(run_id, stage))}
    if not laws:
        st.info("The sweep of this run has not finished. Its law appears here.")
        return
    title = next(iter(laws))
    if len(laws) > 1:
        title = st.segmented_control(
            "Law", list(laws), default=title, key="law", bind="query-params", required=True
        ) or title  # fmt: skip
    stage, digest = laws[title]
    law = reading.read_json(digest, "law.json")
    _runs(law)
    st.subheader("Fitted laws")
    st.latex(r"\eta = c\,N^{a}D^{b} \qquad B = c\,N^{a}D^{b} \qquad L = E + A\,N^{-\alpha} + B\,D^{-\beta}")
    st.dataframe(exponents(law), hide_index=True, width="stretch")
    st.caption("An exponent whose interval is a point was taken from the literature: the sweep could not fit it.")
    st.subheader("Optima found by the sweep")
    st.dataframe(pd.DataFrame(law["optima"]), hide_index=True, width="stretch")
    st.subheader("Prediction beside outcome")
    if stage == "scaling":
        effects = reading.summary(digest).get("effects", [])
        table = pd.DataFrame(effects)[["name", "value", "baseline", "note"]] if effects else pd.DataFrame()
        st.dataframe(table, hide_index=True, width="stretch")
        return
    held_out = reading.artifact_of(run_id, stage.replace("law", "held-out"))
    _study(
        reading.read_json(digest, "prediction.json"), reading.read_json(held_out, "outcome.json") if held_out else None
    )


def _runs(law: dict) -> None:
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


def _study(prediction: dict, outcome: dict | None) -> None:
    """A model that was not fitted: what the law said of it, and what came out."""
    st.markdown(
        f"A model of {prediction['active_parameters']:,} (active) parameters, {prediction['times_largest']:.1f} times "
        f"the largest that was fitted, on {prediction['tokens']:,} tokens"
    )
    found = outcome and {"loss": outcome["loss"], **{k: outcome["best"][k] for k in ("learning_rate", "batch_tokens")}}
    rows = [
        (name, *(prediction[key][side] for side in ("value", "low", "high")), found and found[key])
        for key, name in (
            ("loss", "loss"), ("learning_rate", "best learning rate"), ("batch_tokens", "best tokens an update"),
        )
    ]  # fmt: skip
    columns = ["quantity", "predicted", "low", "high", "outcome"]
    st.dataframe(pd.DataFrame(rows, columns=columns), hide_index=True, width="stretch")
    if outcome:
        st.caption(
            f"The predicted loss is {outcome['loss_error']:+.1%} off. With the predicted rate and batch the loss is "
            f"{outcome['gap_to_best']:+.2%} from the best of {len(outcome['points'])} runs around them."
        )
    else:
        st.info("The larger model has not been trained yet. What becomes of the prediction appears here.")
    cells = pd.DataFrame(prediction["cells"]).assign(model="fitted")
    held_out = {"law": prediction["loss"]["value"], "loss": found and found["loss"], "model": "held out"}
    scale = alt.Scale(zero=False)
    dots = alt.Chart(pd.concat([cells, pd.DataFrame([held_out])])).mark_point(filled=True, size=70).encode(
        x=alt.X("law", scale=scale, title="loss by the law"), y=alt.Y("loss", scale=scale, title="loss that came out"),
        color=alt.Color("model", title=None), tooltip=["active_parameters", "parameters", "tokens", "law", "loss"],
    )  # fmt: skip
    ends = pd.DataFrame({"x": [cells["loss"].min(), cells["loss"].max()]})
    equal = alt.Chart(ends).mark_line(strokeDash=[4, 4], color="gray").encode(x="x", y="x")
    st.altair_chart(equal + dots, width="stretch")


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
