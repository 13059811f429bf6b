"""Finding a checkpoint by what people call it, and the command ``eval`` over it."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flows.errors import UsageError
from flows.terminal import Display, stdout, table
from infra.catalog import Catalog
from infra.errors import MissingArtifact
from infra.settings import Settings, load_settings
from infra.store import ArtifactStore, open_store

CHECKPOINT_KINDS = ("checkpoint", "reward-model")


class Folder:
    """A checkpoint outside the store, as a stage sees it."""

    def __init__(self, path: Path) -> None:
        self.kind, self.digest, self.path = "checkpoint", "", path
        self.summary: dict[str, Any] = {}


def find_digest(name: str, settings: Settings, store: ArtifactStore) -> str:
    """The artifact that an alias, or the beginning of a digest, stands for."""
    digest = Catalog(settings.catalog_url).resolve_alias(name)
    if digest is None:
        digest = store.find(name)
    elif not store.exists(digest):
        raise MissingArtifact(f"alias {name} means artifact {digest[:12]}, which is no longer in the store")
    return digest


def find_checkpoint(name: str, settings: Settings, store: ArtifactStore) -> Any:
    """A checkpoint by alias, digest or folder."""
    if (folder := Path(name)).is_dir():
        if not (folder / "config.json").is_file():
            raise UsageError(f"{folder} is no model folder: it has no config.json")
        return Folder(folder)
    if folder.is_file():
        raise UsageError(f"{folder} is a file; qwenforge import {folder} makes a checkpoint of it")
    try:
        artifact = store.open(find_digest(name, settings, store))
    except MissingArtifact as error:
        known = ", ".join(Catalog(settings.catalog_url).aliases()) or "there is none yet"
        raise UsageError(f"{name} is no alias ({known}), no artifact and no folder: {error}") from None
    if artifact.kind not in CHECKPOINT_KINDS:
        raise UsageError(f"{name} is an artifact of kind {artifact.kind}, not a checkpoint")
    return artifact


@contextmanager
def readable(name: str) -> Iterator[None]:
    """A checkpoint that cannot be read is a mistake in what was asked."""
    from components.serving.importing import ModelFormatError

    try:
        yield
    except ModelFormatError as error:
        raise UsageError(f"{name}: {error}") from None


def evaluate_command(name: str, recipe_path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Measure a checkpoint on the held-out shards and conversations of a finished recipe."""
    from components.evaluation.evaluate import evaluate
    from components.evaluation.held_out import same_vocabulary
    from flows.pipelines import pipeline_of
    from flows.recipe import load_recipe
    from flows.resolve import resolve
    from flows.stage_run import StageRun
    from flows.start import locate

    settings, display = load_settings(), Display()
    store = open_store(settings)
    recipe = locate(load_recipe(recipe_path, overrides), settings, store)
    checkpoint = find_checkpoint(name, settings, store)
    done = {row.stage.id: row.digest for row in resolve(pipeline_of(recipe), recipe, recipe.seed, store)}
    if not done["shards" if "shards" in done else "conversations"]:
        raise UsageError(f"the held-out data of {recipe_path} is not there yet: qwenforge run {recipe_path}")
    inputs = {"checkpoint": checkpoint}
    inputs |= {
        part: store.open(digest)
        for part in ("shards", "conversations", "factories", "reward")
        if (digest := done.get(part))
    }
    if (tokenizer := done.get("tokenizer")) and not same_vocabulary(checkpoint.path, store.open(tokenizer).path):
        inputs["tokenizer"] = store.open(tokenizer)
    with TemporaryDirectory() as folder, display.live(1):
        output, state = Path(folder) / "output", Path(folder) / "state"
        output.mkdir()
        state.mkdir()
        run = StageRun(recipe.seed, output, state, settings.device, display, lambda values, step: None)
        with readable(name):
            evaluate(recipe.evaluate, inputs, run)
        return json.loads((output / "evaluation.json").read_text(encoding="utf-8"))


def print_evaluation(result: dict[str, Any]) -> None:
    """One line a metric."""
    rows = [
        [name, f"{m['value']:.4g}", f"{m['low']:.4g}", f"{m['high']:.4g}", m["n"]]
        for name, m in sorted(result["metrics"].items())
    ]
    headers = {"metric": "left", "value": "right", "low": "right", "high": "right", "items": "right"}
    stdout().print(table("95% intervals", headers, rows))


__all__ = ["evaluate_command", "find_checkpoint", "find_digest", "print_evaluation", "readable"]
