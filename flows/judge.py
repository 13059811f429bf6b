"""``qwenforge judge``: what the quality judge of a finished run is worth."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows.errors import UsageError
from flows.recipe import load_whole_recipe
from flows.resolve import resolve
from flows.stage_run import StageRun
from flows.stages import PIPELINE, through
from flows.terminal import Display, stdout, table
from infra.settings import load_settings
from infra.store import open_store

KNOWN = "recipes/corpora/known.toml"
NEEDED = ("ingest", "deduplicate")


def judge_command(path: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Fit the judge again and measure it. A language model's answers are kept in ``judge/`` in the home folder."""
    from components.data.ingest import find_corpus
    from components.data.judge_report import judge_report
    from components.data.sources import load_corpus

    recipe, settings, display = load_whole_recipe(path, overrides, "qwenforge judge"), load_settings(), Display()
    store = open_store(settings)
    done = {row.stage.id: row.digest for row in resolve(through(PIPELINE, "deduplicate"), recipe, recipe.seed, store)}
    if missing := [stage for stage in NEEDED if not done[stage]]:
        raise UsageError(f"not there yet: {', '.join(missing)}; first: qwenforge run {path} --until deduplicate")
    ingested, documents = (store.open(str(done[stage])).path for stage in NEEDED)
    state = settings.home / "judge"
    run = StageRun(recipe.seed, state, state, settings.device, display, lambda values, step: None)
    known = find_corpus(KNOWN)
    with display.live(1):
        return judge_report(recipe.quality, recipe.clean, ingested, documents, load_corpus(known), known.parent, run)


def print_judge(result: dict[str, Any]) -> None:
    """Four tables, and a few samples of each disagreement with the filters."""
    out = stdout()
    right = "right"
    out.print(table(
        f"{result['judge']} judge, {result['documents']:,} documents: AUC on its own held-out labels",
        {"dimension": "left", "language": "left", "texts": right, "AUC [95%]": right},
        [[row["dimension"], row["language"], f"{row['texts']:,}", area(row)] for row in result["agreement"]],
    ))  # fmt: skip
    out.print(table(
        "AUC on labels of others, beside that of the share of letters; below the stage's threshold: bad, good",
        {"labels": "left", "": "left", "AUC [95%]": right, "letters": right, "bad": right, "good": right},
        [[row["name"], row["language"], area(row), f"{row['letters_auc']:.3f}", f"{row['bad_below']:.1%}",
          f"{row['good_below']:.1%}"] for row in result["known"]],
    ))  # fmt: skip
    out.print(table(
        "drift of scores from the corpus's own (population stability index; over 0.25 is a lot)",
        {"": "left", "name": "left", "documents": right, "mean": right, "index": right},
        [[row["kind"], row["name"], f"{row['documents']:,}", f"{row['mean']:.3f}", f"{row['index']:.3f}"]
         for row in result["drift"]],
    ))  # fmt: skip
    verdicts = ("both", "only the judge", "only the filters", "neither")
    out.print(table(
        "documents kept by judge and heuristic filters, of all that was ingested but labelled junk",
        {"language": "left", **dict.fromkeys(verdicts, right)},
        [[row["language"], *(f"{row[verdict]:,}" for verdict in verdicts)] for row in result["heuristics"]],
    ))  # fmt: skip
    for verdict, rows in result["samples"].items():
        for row in rows[:3]:
            reason = f", filters: {row['filters']}" if row["filters"] else ""
            text = " ".join(row["text"].split())[:160]
            out.print(f"{verdict} (score {row['overall']:.2f}{reason}): {text}", markup=False, highlight=False)


def area(row: dict[str, Any]) -> str:
    """``0.873 [0.856, 0.888]``."""
    return f"{row['auc']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


__all__ = ["judge_command", "print_judge"]
