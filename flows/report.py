"""``qwenforge report``: the report card of a run with what each stage has cost, from the store and the catalog."""

import json
from pathlib import Path
from typing import Any

from flows.errors import UsageError
from flows.terminal import Display, table
from infra.catalog import Catalog, Run
from infra.settings import Settings, load_settings
from infra.store import ArtifactStore, open_store


def report_command(run_id: str, output: Path | None) -> dict[str, str]:
    """Write the card of a run (its id or name, or ``latest``) to ``output``; returns where it is."""
    settings = load_settings()
    catalog = Catalog(settings.catalog_url)
    run = find_run(catalog, run_id)
    digest = report_digest(catalog, run)
    if digest is None:
        raise UsageError(f"run {run.name} ({run.state}) has no report: its report stage has not been reached")
    return write_card(settings, open_store(settings), catalog, run, digest, output)


def card_of(settings: Settings, store: ArtifactStore, digest: str) -> dict[str, str] | None:
    """The card that a report artifact has led to, rendered now if it is not on disk; None before any run."""
    catalog = Catalog(settings.catalog_url)
    runs = [run for run in catalog.list_runs() if report_digest(catalog, run) == digest]
    if not runs:
        return None
    html = card_folder(settings, runs[0]) / "report.html"
    if html.exists():
        return {"run": runs[0].id, "html": str(html), "markdown": str(html.with_suffix(".md"))}
    return write_card(settings, store, catalog, runs[0], digest)


def write_card(
    settings: Settings, store: ArtifactStore, catalog: Catalog, run: Run, digest: str, output: Path | None = None
) -> dict[str, str]:
    """Render the report artifact ``digest`` with the costs of ``run``."""
    from components.evaluation.report import render

    target = (output or card_folder(settings, run)) / "report.html"
    html = render(store.open(digest).path, costs(settings, store, catalog, run), target)
    return {"run": run.id, "html": str(html), "markdown": str(html.with_suffix(".md"))}


def costs(settings: Settings, store: ArtifactStore, catalog: Catalog, run: Run) -> list[dict[str, Any]]:
    """Seconds, tokens, FLOPs and share of this machine's matrix-product ceiling of every stage, in order.

    A cached stage costs what it took the run that made its artifact.
    """
    ceiling = measured_ceiling(settings)
    before = _seconds_by_artifact(catalog)
    rows = []
    for stage in catalog.stages_of(run.id):
        digest = stage.artifact_digest
        row: dict[str, Any] = {"stage": stage.stage, "state": stage.state}
        if digest and store.exists(digest):
            summary = store.manifest(digest).summary
            seconds = before.get(digest) if stage.state == "cached" else stage.seconds
            row |= {"seconds": seconds, "tokens": summary.get("tokens"), "flops": summary.get("flops")}
            if row["flops"] and seconds:
                row["utilisation"] = row["flops"] / seconds / ceiling
        rows.append(row)
    return rows


def measured_ceiling(settings: Settings) -> float:
    """FLOP/s of plain matrix products on this machine, with as many threads as the stages have."""
    import torch

    from infra.hardware import measure_matmul_ceiling

    if settings.threads:
        torch.set_num_threads(settings.threads)
    return measure_matmul_ceiling(device=settings.device)


def print_scores(display: Display, report_folder: Path) -> None:
    """The table of every checkpoint on every metric; the card has the intervals."""
    from components.evaluation.formats import number

    content = json.loads((report_folder / "report.json").read_text(encoding="utf-8"))
    names = list(content["evaluations"])
    rows = []
    for row in content["metrics"]:
        cells = [row["cells"].get(name) for name in names]
        rows.append([row["title"], *(number(cell and cell["value"], row["unit"]) for cell in cells)])
    display.console.print(table("checkpoints", {"": "left", **dict.fromkeys(names, "right")}, rows))


def find_run(catalog: Catalog, run: str) -> Run:
    """A run by the beginning of its id, by its name, or the latest."""
    named = [candidate for candidate in catalog.list_runs() if candidate.name == run]
    return named[0] if named else catalog.get_run(run)


def report_digest(catalog: Catalog, run: Run) -> str | None:
    """The report artifact that a run ended with."""
    done = (stage.artifact_digest for stage in catalog.stages_of(run.id) if stage.stage == "report")
    return next(done, None)


def card_folder(settings: Settings, run: Run) -> Path:
    return settings.home / "reports" / run.name


def _seconds_by_artifact(catalog: Catalog) -> dict[str, float]:
    """What making each artifact took, by its latest making."""
    found: dict[str, float] = {}
    for run in catalog.list_runs():
        for stage in catalog.stages_of(run.id):
            if stage.state == "completed" and stage.artifact_digest and stage.seconds is not None:
                found.setdefault(stage.artifact_digest, stage.seconds)
    return found


__all__ = ["card_of", "costs", "find_run", "print_scores", "report_command", "report_digest", "write_card"]
