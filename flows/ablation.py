"""``qwenforge ablate``: two mixtures, the same small model, equal tokens."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flows.errors import UsageError
from flows.recipe import Recipe, load_whole_recipe
from flows.resolve import resolve
from flows.stage_run import StageRun, workspace
from flows.stages import PIPELINE, through
from flows.terminal import Display, stdout, table
from infra.errors import MissingArtifact
from infra.settings import load_settings
from infra.store import ArtifactStore, open_store

MADE_HERE = ("raw", "rebalanced")
NEEDED = ("ingest", "domains", "tokenizer")
VERSION = 2
"""Raise it when the same recipe would give another result."""


def ablate_command(path: Path, overrides: Sequence[str], first: str, second: str) -> dict[str, Any]:
    """Train and compare; a finished comparison is read from ``ablations/`` in the home folder."""
    from components.data.ablation_arms import Corpora
    from components.evaluation.ablation import ablate

    if first == second:
        raise UsageError(f"both sides are {first}: choose two different ones with --first and --second")
    recipe, settings, display = load_whole_recipe(path, overrides, "qwenforge ablate"), load_settings(), Display()
    store = open_store(settings)
    # Only what the comparison needs is looked up: the rest of the recipe may be unfinished.
    rows = resolve(through(PIPELINE, "tokenizer"), recipe, recipe.seed, store)
    done = {row.stage.id: row.digest for row in rows}
    if missing := [stage for stage in NEEDED if not done[stage]]:
        raise UsageError(f"not there yet: {', '.join(missing)}; first: qwenforge run {path} --until tokenizer")
    digests = {stage: str(done[stage]) for stage in NEEDED}
    sides = (find_side(first, store), find_side(second, store))
    if sides[0].name == sides[1].name:
        sides = (sides[0], replace(sides[1], name=f"{sides[1].name}-2"))
    key = ablation_key(recipe, digests, sides)
    finished = settings.home / "ablations" / f"{recipe.name}-{key[:12]}" / "ablation.json"
    if not finished.is_file():
        with display.live(), workspace(settings.home, key) as (output, state):
            corpora = Corpora(
                store.open(digests["ingest"]).path, store.open(digests["domains"]).path, recipe.clean,
                recipe.deduplicate, recipe.shards.held_out_share, recipe.ablation.held_out_documents,
            )  # fmt: skip
            run = StageRun(recipe.seed, output, state, settings.device, display, lambda values, step: None)
            ablate(recipe.ablation, recipe.mixture, corpora, store.open(digests["tokenizer"]).path, sides, run)
            keep(output / "ablation.json", finished)
    display.line(f"kept in {finished}")
    return json.loads(finished.read_text(encoding="utf-8"))


def find_side(name: str, store: ArtifactStore) -> Any:
    """One of the two that are made here, a folder of documents, or an artifact by its digest."""
    from components.evaluation.ablation import Side

    if name in MADE_HERE:
        return Side(name)
    if (folder := Path(name)).is_dir():
        if not any(folder.glob("documents-*.parquet")):
            raise UsageError(f"{folder} holds no documents-*.parquet")
        return Side(folder.name, folder)
    try:
        artifact = store.open(store.find(name))
    except MissingArtifact as error:
        raise UsageError(f"{name} is none of {', '.join(MADE_HERE)}, no folder and no artifact: {error}") from None
    if artifact.kind not in ("corpus", "mixture"):
        raise UsageError(f"{name} is an artifact of kind {artifact.kind}, not a corpus or mixture")
    return Side(artifact.digest[:12], artifact.path)


def ablation_key(recipe: Recipe, digests: dict[str, str], sides: Sequence[Any]) -> str:
    """Sha256 over what decides the result, and so over where a killed comparison goes on from."""
    facts = {
        "version": VERSION, "seed": recipe.seed, "inputs": digests, "held_out_share": recipe.shards.held_out_share,
        "config": recipe.ablation.model_dump(mode="json"), "mixture": recipe.mixture.model_dump(mode="json"),
        "clean": recipe.clean.model_dump(mode="json"), "deduplicate": recipe.deduplicate.model_dump(mode="json"),
        "sides": [[side.name, fingerprint(side.path)] for side in sides],
    }  # fmt: skip
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def fingerprint(folder: Path | None) -> str:
    """Digest of the documents of a folder that may change."""
    if folder is None:
        return ""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("documents-*.parquet")):
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def keep(source: Path, target: Path) -> None:
    """Move a result to its place in one step."""
    target.parent.mkdir(parents=True, exist_ok=True)
    source.replace(target)


def print_ablation(result: dict[str, Any]) -> None:
    """A line a domain; negative differences are in favour of the second mixture."""
    names = [side["name"] for side in result["sides"]]
    rows = [
        [row["domain"], row["documents"], f"{row['first']:.4f}", f"{row['second']:.4f}", f"{row['difference']:+.4f}",
         *("–" if row[bound] is None else f"{row[bound]:+.4f}" for bound in ("low", "high")), better(row, names)]
        for row in result["domains"]
    ]  # fmt: skip
    headers = {
        "domain": "left", "texts": "right", names[0]: "right", names[1]: "right", "difference": "right",
        "low": "right", "high": "right", "better": "left",
    }  # fmt: skip
    models = ", ".join(f"{side['name']} {side['trained_tokens'][0]:,.0f}" for side in result["sides"])
    title = (
        "held-out bits per byte, 95% intervals of the difference\n"
        f"{len(result['seeds'])} models of {result['parameters']:,} parameters a side; training tokens: {models}"
    )
    stdout().print(table(title, headers, rows))


def better(row: dict[str, Any], names: Sequence[str]) -> str:
    """Which side needs fewer bits, where the interval says so."""
    if row["low"] is None or row["low"] <= 0 <= row["high"]:
        return ""
    return names[1] if row["high"] < 0 else names[0]


__all__ = ["ablate_command", "print_ablation"]
