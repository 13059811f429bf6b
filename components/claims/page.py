"""The page of the claims: HTML with its plots inside, Markdown with plots beside it, and the same as JSON."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.claims.verdict import CONTRADICTED, HOLDS, MISSING, OPEN

UNITS = {
    "share": ("percentage points in favour of the claim", 100.0),
    "bits/byte": ("bits per byte in favour of the claim", 1.0),
    "nats": ("nats a token in favour of the claim", 1.0),
}
"""Units that several contrasts share: one plot each."""


def write_page(result: Mapping[str, Any], folder: Path) -> Path:
    """Write ``claims.json``, ``claims.md``, ``plots/`` and, last, ``claims.html``, each at once; its path."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    from components.evaluation import formats, report
    from components.training.checkpoint import write_atomically

    templates = [Path(__file__).parent / "templates", Path(report.__file__).parent / "templates"]
    environment = Environment(
        loader=FileSystemLoader(templates), autoescape=lambda name: bool(name) and ".html" in str(name),
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters.update(formats.FILTERS)
    plots = drawn(result)
    verdicts = [claim["verdict"] for claim in result["claims"]]
    counts = {verdict: verdicts.count(verdict) for verdict in (HOLDS, OPEN, CONTRADICTED, MISSING)}
    seconds = sum(claim["seconds"] for claim in result["claims"])
    values = {**result, "plots": {k: Markup(v) for k, v in plots.items()}, "counts": counts, "seconds": seconds}
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    for name, svg in plots.items():
        write_atomically(folder / "plots" / f"{name}.svg", report.standalone(svg).encode())
    write_atomically(folder / "claims.json", (json.dumps(result, indent=1, ensure_ascii=False) + "\n").encode())
    for template in ("claims.md.j2", "claims.html.j2"):
        text = environment.get_template(template).render(values)
        write_atomically(folder / template.removesuffix(".j2"), text.encode())
    return folder / "claims.html"


def drawn(result: Mapping[str, Any]) -> dict[str, str]:
    """A plot of all differences of a unit, signed so that the right side speaks for the claim: name -> SVG."""
    from components.evaluation.plots import forest

    families = list(dict.fromkeys(claim["family"] for claim in result["claims"]))
    made = {}
    for unit, (label, scale) in UNITS.items():
        rows = [
            row_of(claim, finding, families.index(claim["family"]))
            for claim in result["claims"]
            for finding in claim["findings"]
            if finding["unit"] == unit
        ]
        if rows:
            name = f"claims-{unit.replace('/', '-per-').replace(' ', '-')}"
            made[name] = forest(name, rows, label, scale)
    return made


def row_of(claim: Mapping[str, Any], finding: Mapping[str, Any], colour: int) -> dict[str, Any]:
    """One difference for the plot."""
    sign = 1.0 if finding["better"] == "higher" else -1.0
    bounds = [finding["low"], finding["high"]]
    known = None not in bounds
    low, high = sorted(sign * bound for bound in bounds) if known else (None, None)
    first = finding is claim["findings"][0]
    return {
        "label": claim["id"] if first else f"{claim['id']}: {short(finding['contrast'])}",
        "value": sign * finding["difference"], "low": low, "high": high,
        "seeds": [sign * value for value in finding["by_seed"]], "bound": -(finding["margin"] or 0.0), "colour": colour,
    }  # fmt: skip


def short(name: str, most: int = 46) -> str:
    return name if len(name) <= most else name[: most - 1].rstrip() + "…"


__all__ = ["drawn", "write_page"]
