"""Plots of the report card as SVG text: the same data gives the same bytes, and colours follow the reader's theme."""

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from components.scaling.law import ScalingLaw

PALETTE = ("#4c8bf5", "#e8833a", "#2fa66a", "#9b6dd6", "#d9534f", "#1aa3b8", "#c49a2a", "#8a8f98")
"""Readable on white and on black, and told apart by colour-blind readers in this order."""
INK = "#123456"  # stands for the page's text colour, put in afterwards
FULL, HALF = 10.4, 5.3
"""Widths in inches of plots that fill the page and of those that stand in pairs: text then is of one size."""
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10, "text.color": INK, "axes.labelcolor": INK,
    "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False,
    "axes.titlesize": 11, "axes.titleweight": "bold", "axes.grid": True, "grid.color": INK, "grid.alpha": 0.15,
    "legend.frameon": False, "legend.fontsize": 9, "axes.axisbelow": True, "lines.linewidth": 1.8,
}  # fmt: skip

Metrics = Mapping[str, Mapping[str, float]]
"""``{name: {value, low, high, n}}`` of one evaluation."""


def data_funnel(rows: Sequence[tuple[str, int, float]]) -> str:
    """Documents left after each data stage; rows of (stage, documents, megabytes, 0 where unknown)."""
    with _figure("funnel", 1, 1, HALF, 0.36 * len(rows) + 0.8) as (axes, done):
        axis = axes[0]
        names, documents, sizes = zip(*reversed(rows), strict=True)
        bars = axis.barh(names, documents, color=PALETTE[0], height=0.62)
        labels = [f"{n:,}" + (f"  ·  {size:.1f} MB" if size else "") for n, size in zip(documents, sizes, strict=True)]
        axis.bar_label(bars, labels=labels, padding=4, color=INK, fontsize=9)
        axis.set_xlim(0, max(documents) * 1.36)
        axis.set_xlabel("documents after the stage")
        axis.grid(axis="y", visible=False)
    return done()


def mixture(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """Share of the bytes of each domain before and after re-weighting."""
    domains = sorted({*before, *after}, key=lambda domain: (after.get(domain, 0.0), domain))
    with _figure("mixture", 1, 1, HALF, 0.34 * len(domains) + 1.0) as (axes, done):
        axis = axes[0]
        for offset, shares, label, colour in ((0.19, before, "before", 7), (-0.19, after, "after", 0)):
            axis.barh(
                [place + offset for place in range(len(domains))], [100 * shares.get(d, 0.0) for d in domains],
                height=0.36, color=PALETTE[colour], label=label,
            )  # fmt: skip
        axis.set_yticks(range(len(domains)), domains)
        axis.set_xlabel("% of bytes")
        axis.grid(axis="y", visible=False)
        axis.legend(ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return done()


def scaling(law: ScalingLaw) -> str:
    """Left: loss over learning rate in every cell of the sweep, with the optimum. Right: the law against the cells."""
    with _figure("scaling", 1, 2, FULL, 3.9) as (axes, done):
        left, right = axes
        for index, optimum in enumerate(law.optima):
            colour = PALETTE[index % len(PALETTE)]
            cell = [p for p in law.points if (p.parameters, p.tokens) == (optimum.parameters, optimum.tokens)]
            for batch in sorted({p.batch_tokens for p in cell}):
                line = sorted((p.learning_rate, p.loss) for p in cell if p.batch_tokens == batch)
                left.plot(*zip(*line, strict=True), color=colour, alpha=0.55, linewidth=1.1, marker="o", markersize=3)
            label = f"{_short(optimum.parameters)}, {_short(optimum.tokens)} tokens"
            left.plot(optimum.learning_rate, optimum.loss, "*", color=colour, markersize=11, label=label)
        left.set(xscale="log", xlabel="learning rate", ylabel="held-out loss (nats/token)", title="Sweep and optima")
        left.legend(fontsize=7.5)
        sizes = sorted({o.parameters for o in law.optima})
        low, high = min(o.tokens for o in law.optima), max(o.tokens for o in law.optima)
        for index, size in enumerate(sizes):
            cells = sorted((o.tokens, o.loss) for o in law.optima if o.parameters == size)
            right.plot(*zip(*cells, strict=True), "o", color=PALETTE[index % len(PALETTE)])
            grid = [low * (10 * high / low) ** (step / 40) for step in range(41)]
            right.plot(
                grid, [law.predict_loss(size, d) for d in grid], color=PALETTE[index % len(PALETTE)], label=_short(size)
            )
        right.set(xscale="log", xlabel="training tokens", ylabel="loss at the optimum", title="Fitted loss law")
        right.legend(title="parameters", fontsize=8, title_fontsize=8)
    return done()


def loss_curves(histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Training loss over steps, a panel for each checkpoint."""
    columns = min(3, len(histories))
    rows = math.ceil(len(histories) / columns)
    with _figure("losses", rows, columns, FULL, 2.5 * rows + 0.3) as (axes, done):
        for axis, (name, history), colour in zip(axes, histories.items(), PALETTE * 3, strict=False):
            axis.plot([p["step"] for p in history], [p["loss"] for p in history], color=colour)
            axis.set(title=name, xlabel="step", ylabel="loss")
        for axis in axes[len(histories) :]:
            axis.set_visible(False)
    return done()


def history_panels(name: str, history: Sequence[Mapping[str, Any]], keys: Mapping[str, str]) -> str:
    """Some metrics of one training history over steps; ``keys`` metric -> title."""
    with _figure(name, 1, len(keys), FULL, 2.9) as (axes, done):
        for axis, (key, title), colour in zip(axes, keys.items(), PALETTE, strict=False):
            points = [(p["step"], p[key]) for p in history if key in p]
            axis.plot(*zip(*points, strict=True), color=colour)
            axis.set(title=title, xlabel="step")
    return done()


def passkey(evaluations: Mapping[str, Metrics]) -> str:
    """Share of pass keys found over context length, with Wilson intervals."""
    with _figure("passkey", 1, 1, FULL, 3.6) as (axes, done):
        axis = axes[0]
        lengths: set[int] = set()
        shift = (len(evaluations) - 1) / 2
        for index, (name, metrics) in enumerate(evaluations.items()):
            points = sorted((int(k.split("/")[1]), m) for k, m in metrics.items() if k.startswith("passkey/"))
            lengths |= {length for length, _ in points}
            # A little sideways, or equal values hide one another.
            x = [length * 1.025 ** (index - shift) for length, _ in points]
            y = [100 * m["value"] for _, m in points]
            spans = [
                [100 * (m["value"] - m["low"]) for _, m in points],
                [100 * (m["high"] - m["value"]) for _, m in points],
            ]
            axis.errorbar(x, y, yerr=spans, color=PALETTE[index % len(PALETTE)], marker="o", capsize=3, label=name)
        axis.set(xscale="log", xlabel="context length (tokens)", ylabel="% of keys found", ylim=(-4, 104))
        axis.set_xticks(sorted(lengths), [f"{length:,}" for length in sorted(lengths)])
        axis.minorticks_off()
        axis.legend(ncols=len(evaluations), loc="upper center", bbox_to_anchor=(0.5, 1.16))
    return done()


def by_group(name: str, evaluations: Mapping[str, Metrics], metric: str, label: str, scale: float = 1.0) -> str:
    """One metric by group (domain, family): a row a group, a point an evaluation, with intervals."""
    groups = sorted({k.split("/", 1)[1] for m in evaluations.values() for k in m if k.startswith(f"{metric}/")})
    with _figure(name, 1, 1, FULL, 0.55 * len(groups) + 1.2) as (axes, done):
        axis = axes[0]
        shift = (len(evaluations) - 1) / 2
        for index, (who, metrics) in enumerate(evaluations.items()):
            found = [(place, metrics[f"{metric}/{g}"]) for place, g in enumerate(groups) if f"{metric}/{g}" in metrics]
            x, spans = _with_spans([m for _, m in found], scale)
            y = [place + (index - shift) * 0.13 for place, _ in found]
            colour = PALETTE[index % len(PALETTE)]
            axis.errorbar(x, y, xerr=spans, fmt="o", markersize=4.5, color=colour, elinewidth=1.1, label=who)
        axis.set_yticks(range(len(groups)), groups)
        axis.set_ylim(len(groups) - 0.5, -0.5)
        axis.set_xlabel(label)
        axis.legend(ncols=len(evaluations), loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return done()


def heat_map(
    name: str, values: Sequence[Sequence[float | None]], rows: Sequence[str], columns: Sequence[str],
    titles: tuple[str, str, str],
) -> str:  # fmt: skip
    """Shares as colours with their percentages written in; ``titles`` of columns, rows and colours. None: no cell."""
    with _figure(name, 1, 1, FULL, 0.36 * len(rows) + 1.2) as (axes, done):
        axis = axes[0]
        filled = [[math.nan if value is None else 100 * value for value in line] for line in values]
        drawn = axis.pcolormesh(filled, cmap="RdYlGn", vmin=0, vmax=100, edgecolors="none")
        for place, line in enumerate(filled):
            for column, value in enumerate(line):
                if not math.isnan(value):  # dark ink on the light middle of the map and white on its ends
                    ink = "#222222" if 20 < value < 85 else "#ffffff"
                    axis.text(
                        column + 0.5, place + 0.5, f"{value:.0f}", ha="center", va="center", color=ink, fontsize=9
                    )
        axis.set_xticks([column + 0.5 for column in range(len(columns))], columns)
        axis.set_yticks([row + 0.5 for row in range(len(rows))], rows)
        axis.set(xlabel=titles[0], ylabel=titles[1], ylim=(len(rows), 0))
        axis.grid(visible=False)
        axis.figure.colorbar(drawn, ax=axis, label=titles[2])
    return done()


def forest(name: str, rows: Sequence[Mapping[str, Any]], label: str, scale: float = 1.0) -> str:
    """A row a difference: a dot with its interval, a small dot a seed, a bar where a margin lies.

    ``rows`` have label, value, low, high (None: not bounded), seeds, bound (0, or the margin below it) and colour.
    """
    with _figure(name, 1, 1, FULL, 0.34 * len(rows) + 1.1) as (axes, done):
        axis = axes[0]
        axis.axvline(0, color=INK, alpha=0.5, linewidth=1)
        for place, row in enumerate(rows):
            colour = PALETTE[row["colour"] % len(PALETTE)]
            value = scale * row["value"]
            spans = [[value - scale * row["low"]], [scale * row["high"] - value]] if row["low"] is not None else None
            axis.errorbar([value], [place], xerr=spans, fmt="o", markersize=5, color=colour, elinewidth=1.4, capsize=3)
            axis.plot([scale * v for v in row["seeds"]], [place] * len(row["seeds"]), ".", color=colour, alpha=0.45)
            if row["bound"]:
                axis.plot([scale * row["bound"]] * 2, [place - 0.35, place + 0.35], color=INK, alpha=0.5, linewidth=1)
        axis.set_yticks(range(len(rows)), [row["label"] for row in rows])
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.set_xlabel(label)
    return done()


def _with_spans(metrics: Sequence[Mapping[str, float]], scale: float) -> tuple[list[float], list[list[float]]]:
    """Values and the lengths of their intervals below and above, as ``errorbar`` wants them."""
    values = [scale * m["value"] for m in metrics]
    below = [scale * (m["value"] - m["low"]) for m in metrics]
    return values, [below, [scale * (m["high"] - m["value"]) for m in metrics]]


@contextmanager
def _figure(name: str, rows: int, columns: int, width: float, height: float):  # type: ignore[no-untyped-def]
    """Axes in reading order, and a function that gives the SVG once the block has ended."""
    # The salt makes the ids that matplotlib invents repeatable, and different between the plots of one page.
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": name}):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes: list[Axes] = list(figure.subplots(rows, columns, squeeze=False).flat)
        written: list[str] = []
        finish: Callable[[], str] = lambda: written[0]  # noqa: E731
        yield axes, finish
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        written.append(_for_a_page(buffer.getvalue(), name))


def _for_a_page(svg: str, name: str) -> str:
    """Without the XML head, as wide as the page allows, in the page's text colour, ids of its own."""
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\1{name}-", svg)
    return re.sub(r'<svg ([^>]*?)width="[^"]*" height="[^"]*"|<svg height="[^"]*"', r"<svg \1", svg, count=1)


def _short(count: float) -> str:
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return f"{count:.0f}"
