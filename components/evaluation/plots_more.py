"""Plots of a scaling study (the law and its cells, a prediction beside its outcome) and of long context, experts."""

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


def long_context(measured: Mapping[str, Any]) -> str:
    """Left: share of pass keys found over length, a line for each checkpoint, points for each way of reading beyond it.
    Right: loss by position."""
    with _figure("long-context", 1, 2, FULL, 4.2) as (axes, done):
        left, right = axes
        names = list(dict.fromkeys(row["title"] for row in measured["passkeys"]))
        for index, name in enumerate(names):
            rows = [row for row in measured["passkeys"] if row["title"] == name]
            x = [row["length"] * 1.02 ** (index - len(names) / 2) for row in rows]  # or equal values hide one another
            y = [100 * row["found"] for row in rows]
            spans = [
                [100 * (row["found"] - row["low"]) for row in rows],
                [100 * (row["high"] - row["found"]) for row in rows],
            ]
            left.errorbar(x, y, yerr=spans, color=PALETTE[index % len(PALETTE)], marker="o", capsize=3, label=name)
        ticks = [*measured["lengths"], measured["stretched"]]
        left.set(xscale="log", xlabel="context length (tokens)", ylabel="% of keys found", ylim=(-4, 104))
        left.set_xticks(ticks, [f"{tick:,}" for tick in ticks], fontsize=8)
        left.minorticks_off()
        left.legend(fontsize=7.5)
        edges = measured["loss_by_position"]["edges"]
        for index, (name, losses) in enumerate(measured["loss_by_position"]["losses"].items()):
            bands = [
                (low, high, loss) for low, high, loss in zip(edges, edges[1:], losses, strict=False) if loss is not None
            ]
            if bands:
                x = [(max(low, 1) * high) ** 0.5 for low, high, _ in bands]
                colour = PALETTE[index % len(PALETTE)]
                right.plot(x, [loss for _, _, loss in bands], "o-", color=colour, markersize=4, label=name)
        right.set(
            xscale="log", xlabel="position (tokens)", ylabel="held-out loss (nats/token)", title="Loss by position"
        )
        right.legend(fontsize=7.5)
    return done()


def experts(measured: Mapping[str, Any]) -> str:
    """Load by domain and expert, relative to an even one; blue is less, orange more."""
    loads, domains = measured["loads"], measured["domains"]  # (domains, layers, E)
    layers, count = len(measured["layers"]), measured["experts"]
    columns = min(2, layers)
    rows = -(-layers // columns)
    with _figure("experts", rows, columns, FULL, rows * (0.28 * len(domains) + 1.1)) as (axes, done):
        for layer, axis in enumerate(axes[:layers]):
            table = [[load * count for load in loads[domain][layer]] for domain in range(len(domains))]
            axis.imshow(table, aspect="auto", cmap="PuOr_r", vmin=0.0, vmax=2.0)
            axis.set_yticks(range(len(domains)), domains if layer % columns == 0 else [""] * len(domains), fontsize=8)
            axis.set(title=f"layer {layer + 1}", xlabel="expert" if layer >= layers - columns else "")
            axis.grid(visible=False)
        for axis in axes[layers:]:
            axis.set_visible(False)
    return done()


__all__ = ["experts", "long_context", "prediction"]
