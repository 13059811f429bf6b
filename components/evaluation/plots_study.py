"""Plots of a scaling study: the law against what it was fitted to, and a prediction beside its outcome."""

from collections.abc import Mapping
from typing import Any

from components.evaluation.plots import FULL, INK, PALETTE, _figure, _short


def prediction(name: str, study: Mapping[str, Any]) -> str:
    """Left: losses of every size over tokens as fitted and as measured, and the held-out model. Right: the direct sweep
    there, with the predicted learning rate (its 95% interval shaded) and the predicted loss."""
    foretold = study["prediction"]
    with _figure(name, 1, 2, FULL, 3.9) as (axes, done):
        left, right = axes
        cells = foretold["cells"]
        sizes = sorted({(cell["active_parameters"], cell["parameters"]) for cell in cells})
        for index, size in enumerate(sizes):
            own = sorted(
                (c["tokens"], c["loss"], c["law"]) for c in cells if (c["active_parameters"], c["parameters"]) == size
            )
            tokens, losses, fitted = zip(*own, strict=True)
            colour, active, total = PALETTE[index % len(PALETTE)], *size
            label = _short(active) if active == total else f"{_short(active)} of {_short(total)}"
            left.plot(tokens, losses, "o", color=colour, markersize=5)
            left.plot(tokens, fitted, color=colour, label=label)
        loss = foretold["loss"]
        spans = [[loss["value"] - loss["low"]], [loss["high"] - loss["value"]]]
        left.errorbar(
            [foretold["tokens"]], [loss["value"]], yerr=spans, fmt="D", color=INK, markersize=6, capsize=3,
            label=f"predicted, {_short(foretold['active_parameters'])}",
        )  # fmt: skip
        left.plot([foretold["tokens"]], [study["loss"]], "*", color=PALETTE[4], markersize=13, label="came out")
        left.set(xscale="log", xlabel="training tokens", ylabel="held-out loss (nats/token)", title="Law and outcome")
        left.legend(fontsize=7.5, ncols=2)

        batches = sorted({point["batch_tokens"] for point in study["points"]})
        for index, batch in enumerate(batches):
            line = sorted((p["learning_rate"], p["loss"]) for p in study["points"] if p["batch_tokens"] == batch)
            line = [(rate, value) for rate, value in line if value < float("inf")]
            if line:
                colour = PALETTE[index % len(PALETTE)]
                right.plot(*zip(*line, strict=True), "o-", color=colour, label=f"{batch:,} tokens an update")
        rate = foretold["learning_rate"]
        right.axvspan(rate["low"], rate["high"], color=INK, alpha=0.08)
        right.axvline(rate["value"], color=INK, alpha=0.6, linewidth=1, linestyle="--", label="predicted rate")
        right.axhline(loss["value"], color=PALETTE[4], alpha=0.7, linewidth=1, linestyle="--", label="predicted loss")
        right.set(xscale="log", xlabel="learning rate", title="Direct sweep of the held-out model")
        right.legend(fontsize=7.5)
    return done()


__all__ = ["prediction"]
