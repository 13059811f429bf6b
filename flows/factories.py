"""``qwenforge factories``: SFT data of the nine kinds into a folder."""

import json
import shutil
from pathlib import Path
from typing import Any

from flows.errors import UsageError
from flows.stage_run import StageRun
from flows.terminal import Display, stdout, table


def factories_command(recipe: Path, overrides: list[str], output: Path, *, dry: bool = False) -> dict[str, Any]:
    """Run the recipe's ``[factories]``; the summary is written beside the records. ``dry``: a few of each, unwritten.

    What a teacher answers is kept beside the output, so that nothing is asked twice after a dry run or a kill.
    """
    from components.sft.factories.build import FactoriesConfig, make_factories
    from components.sft.factories.preview import preview
    from flows.recipe import StudyRecipe, load_recipe

    loaded = load_recipe(recipe, overrides)
    if isinstance(loaded, StudyRecipe):
        raise UsageError(f"{recipe}: a scaling study makes no SFT data")
    config = loaded.factories or FactoriesConfig()
    if output.exists() and any(output.iterdir()):
        raise UsageError(f"{output}: the folder is not empty")
    output = output.resolve()
    state, partial = output.with_name(f".{output.name}.state"), output.with_name(f".{output.name}.partial")
    display = Display()
    run = StageRun(loaded.seed, partial, state, "auto", display, lambda values, step: None)
    try:
        with display.live(1):
            if dry:
                return preview(config, run)
            partial.mkdir(parents=True, exist_ok=True)
            summary = make_factories(config, {}, run)
        (partial / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
        if output.exists():
            output.rmdir()
        partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
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
    if spent := summary.get("teacher"):
        stdout().print(f"teacher: {_tokens(spent, '')}")


def print_preview(found: dict[str, Any]) -> None:
    """The samples, then a line a factory: what it yields and what all its records would take."""
    for sample in found["samples"]:
        wrong = f" (wrong on purpose: {sample['planted']})" if sample["planted"] else ""
        stdout().rule(f"{sample['factory']}: {sample['verdict']}{wrong}", align="left")
        stdout().print(_shortened(sample["prompt"]), style="bold", markup=False)
        stdout().print(_shortened(sample["response"]), markup=False)
    taught = found["writer"] != "procedural"
    rows = []
    for name, row in found["factories"].items():
        needed = row["projected_prompts"]
        rows.append([
            name, row["records"], f"{row['yield']} of {row['prompts']}",
            "none held" if needed is None else f"{needed:,}",
            *([] if not taught else ["-" if needed is None else _tokens(row, "projected_")]),
        ])  # fmt: skip
    columns = {"factory": "left", "records wanted": "right", "prompts that held": "right", "prompts needed": "right"}
    stdout().print(table("", columns | ({"teacher, in all": "left"} if taught else {}), rows))


def _tokens(row: dict[str, Any], prefix: str) -> str:
    cost = f", {row[prefix + 'cost']:,.2f} to pay" if row[prefix + "cost"] else ""
    return f"{row[prefix + 'prompt_tokens']:,.0f} tokens read, {row[prefix + 'answer_tokens']:,.0f} written{cost}"


def _shortened(text: str, limit: int = 600) -> str:
    return text if len(text) <= limit else f"{text[:limit]} [...]"


__all__ = ["factories_command", "print_factories", "print_preview"]
