"""Stage ``report``: the report card of a run, as JSON, Markdown and one self-contained HTML page.

The stage's own output is deterministic and has no costs, because seconds differ from run to run; ``render`` adds them
from the catalog. A stage that did not run is shown as such.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from components.stage import Inputs, Run, StageConfig, StageError, Summary

CAPTIONS = {
    "funnel": "What each data stage left over.",
    "mixture": "Shares of the bytes by domain before and after re-weighting.",
    "scaling": "Left: runs of the sweep, a star at each optimum. Right: the loss law (lines) and the optima (dots).",
    "study-dense": "Dense models. Left: the loss law (lines), the optima that it was fitted to (dots), and the "
    "held-out model as predicted and as it came out. Right: the direct sweep of that model.",
    "study-moe": "Mixtures of experts (active of total parameters) with the dense models in one law, in the same way.",
    "long-context": "Left: pass keys found by length, before and after extension, and beyond the trained length in "
    "four ways of reading, with 95% intervals. Right: held-out loss by position.",
    "experts": "Load of every expert by domain against an even one, a panel a layer.",
    "losses": "Training loss of every checkpoint.",
    "rewards": "Online reinforcement learning: reward and pass rate of the sampled answers.",
    "passkey": "Pass keys found by context length, with 95% intervals.",
    "domains": "Held-out bits per byte by domain, with 95% intervals. Lower is better.",
    "families": "Verified sampled answers by task family, with 95% intervals.",
}
"""Plots in the order of the page."""


class ReportConfig(StageConfig):
    """What the report card is called."""

    title: str = Field("Report card", description="heading of the page")


def write_report(config: ReportConfig, inputs: Inputs, run: Run) -> Summary:
    """Inputs: all artifacts of the run by stage id; any may be missing."""
    from components.evaluation.report_content import collect
    from components.stage import effect

    content = collect(config.title, inputs, run.seed)
    plots = _plots(content)
    (run.output / "plots").mkdir()
    for name, svg in plots.items():
        (run.output / "plots" / f"{name}.svg").write_text(standalone(svg), encoding="utf-8")
    text = json.dumps(content, indent=1, ensure_ascii=False)
    (run.output / "report.json").write_text(text, encoding="utf-8")
    _write_pages(content, plots, None, run.output / "report.html")
    held = [claim["claim"] for claim in content["claims"] if claim["verdict"] == "holds"]
    tested = [claim for claim in content["claims"] if claim["verdict"] != "not run"]
    return {
        "claims": {claim["claim"]: claim["verdict"] for claim in content["claims"]},
        "effects": [
            effect(
                "headline claims that hold", len(held), len(content["claims"]), unit="claims",
                note=f"baseline: all claims; {len(tested)} could be tested in this run",
            )
        ],
    }  # fmt: skip


def render(report_folder: Path, costs: Sequence[Mapping[str, Any]], target: Path) -> Path:
    """Write the page with its costs to ``target`` (HTML) and its Markdown beside it; return ``target``.

    ``costs`` has a row for each stage, in order: stage, state, and where known seconds, tokens, flops,
    flops_per_second, utilisation (0 to 1).
    """
    file = report_folder / "report.json"
    if not file.is_file():
        raise StageError(f"{report_folder}: no report.json there; run the report stage first")
    content = json.loads(file.read_text(encoding="utf-8"))
    plots = {
        name: (report_folder / "plots" / f"{name}.svg").read_text(encoding="utf-8")
        for name in CAPTIONS
        if (report_folder / "plots" / f"{name}.svg").is_file()
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.with_suffix(".md") != report_folder / "report.md":
        folder = target.parent / "plots"
        folder.mkdir(exist_ok=True)
        for name, svg in plots.items():
            (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
    _write_pages(content, plots, _with_totals(costs), target)
    return target


def _plots(content: Mapping[str, Any]) -> dict[str, str]:
    """Name -> SVG of every plot that there is data for."""
    from components.evaluation import plots, plots_more
    from components.scaling.law import ScalingLaw

    evaluations, histories = content["evaluations"], content["histories"]
    names = {name for metrics in evaluations.values() for name in metrics}
    made: dict[str, str] = {}
    if content["funnel"]:
        made["funnel"] = plots.data_funnel(
            [(row["stage"], row["documents"], row["megabytes"]) for row in content["funnel"]]
        )
    if content["mixture"]:
        made["mixture"] = plots.mixture(content["mixture"]["before"], content["mixture"]["after"])
    if content["scaling"]:
        made["scaling"] = plots.scaling(ScalingLaw.model_validate(content["scaling"]))
    for kind, entry in content.get("study", {}).items():
        made[f"study-{kind}"] = plots_more.prediction(f"study-{kind}", entry)
    if "long_context" in content:
        made["long-context"] = plots_more.long_context(content["long_context"])
    if "experts" in content:
        made["experts"] = plots_more.experts(content["experts"])
    if histories:
        made["losses"] = plots.loss_curves(histories)
    rewards = {"reward": "reward", "pass_rate": "pass rate", "answer_tokens": "answer length (tokens)"}
    shown = {key: title for key, title in rewards.items() if any(key in p for p in histories.get("rl", []))}
    if shown:
        made["rewards"] = plots.history_panels("rewards", histories["rl"], shown)
    keyed = {who: metrics for who, metrics in evaluations.items() if "passkey" in metrics}
    if keyed:
        made["passkey"] = plots.passkey(keyed)
    if any(name.startswith("bits_per_byte/") for name in names):
        made["domains"] = plots.by_group("domains", evaluations, "bits_per_byte", "bits per byte")
    if any(name.startswith("verified_sampled/") for name in names):
        answered = {who: metrics for who, metrics in evaluations.items() if "verified_sampled" in metrics}
        made["families"] = plots.by_group("families", answered, "verified_sampled", "% verified", scale=100)
    return {name: made[name] for name in CAPTIONS if name in made}


def _with_totals(costs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Cost rows with FLOP/s where they can be worked out, and their sums."""
    rows = []
    for cost in costs:
        row = {"flops_per_second": None, "utilisation": None, "seconds": None, "tokens": None, "flops": None, **cost}
        if row["flops_per_second"] is None and row["flops"] and row["seconds"]:
            row["flops_per_second"] = row["flops"] / row["seconds"]
        rows.append(row)
    total = {key: sum(row[key] or 0 for row in rows) for key in ("seconds", "tokens", "flops")}
    return {"rows": rows, "total": total}


def _write_pages(content: Mapping[str, Any], plots: Mapping[str, str], costs: Any, target: Path) -> None:
    """``target`` and its ``.md`` sibling from the two templates."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    from components.evaluation.formats import FILTERS

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=lambda name: bool(name) and ".html" in str(name),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(FILTERS)
    # Like the costs, the report's own figures come with the page and are no part of the stage's output.
    published = _published(content) if costs else None
    values = {
        **content,
        "costs": costs,
        "published": published,
        "captions": CAPTIONS,
        "plots": {k: Markup(v) for k, v in plots.items()},
    }
    for template, file in (("report.html.j2", target), ("report.md.j2", target.with_suffix(".md"))):
        file.write_text(environment.get_template(template).render(values), encoding="utf-8")


def _published(content: Mapping[str, Any]) -> dict[str, Any] | None:
    """The report's figures for the nearest size; None where this run has no model."""
    from components.evaluation.published import beside

    size = next((fact["value"] for fact in content["facts"] if fact["label"].startswith("parameters")), None)
    return beside(content["evaluations"], float(size.rstrip("M").replace(",", "")) * 1e6) if size else None


def standalone(svg: str) -> str:
    """An SVG that is looked at outside the page follows the viewer's theme too."""
    style = "<style>svg{color:#1d2330}@media(prefers-color-scheme:dark){svg{color:#dfe3ea}}</style>"
    head, tail = svg.split(">", 1)
    return f"{head}>{style}{tail}"
