"""``qwenforge factories``: SFT data of the nine kinds into a folder."""

import json
from pathlib import Path
from typing import Any

from flows.errors import UsageError
from flows.stage_run import StageRun
from flows.terminal import Display, stdout, table


def factories_command(recipe: Path, overrides: list[str], output: Path) -> dict[str, Any]:
    """Run the recipe's ``[factories]``; the summary is written beside the records."""
    from components.sft.factories.build import FactoriesConfig, make_factories
    from flows.recipe import StudyRecipe, load_recipe

    loaded = load_recipe(recipe, overrides)
    if isinstance(loaded, StudyRecipe):
        raise UsageError(f"{recipe}: a scaling study makes no SFT data")
    config = loaded.factories or FactoriesConfig()
    if output.exists() and any(output.iterdir()):
        raise UsageError(f"{output}: the folder is not empty")
    output.mkdir(parents=True, exist_ok=True)
    display = Display()
    run = StageRun(loaded.seed, output, output, "cpu", display, lambda values, step: None)
    with display.live(1):
        summary = make_factories(config, {}, run)
    (output / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return summary


def print_factories(summary: dict[str, Any]) -> None:
    """A line a factory: records, candidates, acceptance, and why the others were rejected."""
    rows = [
        [name, tally["records"], tally["candidates"], f"{tally['acceptance']:.1%}",
         f"{tally['planted_rejected']}/{tally['planted']}",
         ", ".join(f"{reason} {count}" for reason, count in tally["reasons"].items())]
        for name, tally in summary["factories"].items()
    ]  # fmt: skip
    columns = {"factory": "left", "records": "right", "candidates": "right", "accepted": "right",
               "planted found": "right", "reasons": "left"}  # fmt: skip
    stdout().print(table("", columns, rows))


__all__ = ["factories_command", "print_factories"]
