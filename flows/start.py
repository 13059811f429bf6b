"""Finding the checkpoint that ``[start]`` names, and checking it before anything starts."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from components.serving.pinned import read_pinned
from components.serving.start import (
    LocatedStart,
    ModelConfig,
    StartConfig,
    check_start,
    checkpoint_file,
    checkpoint_parts,
)
from components.stage import StageError
from flows.errors import UsageError
from flows.recipe import AnyRecipe, StartRecipe
from infra.manifest import sha256_of
from infra.settings import Settings
from infra.store import ArtifactStore

Some = TypeVar("Some", bound=AnyRecipe)

CHECKOUT = Path(__file__).parents[1]
READERS = 4  # hashing threads, as in the store


def locate(recipe: Some, settings: Settings, store: ArtifactStore) -> Some:
    """``recipe`` with the content of its start looked up, which is in the cache key; any other recipe as it is.

    UsageError where there is no such checkpoint.
    """
    if not isinstance(recipe, StartRecipe):
        return recipe
    try:
        return recipe.model_copy(update={"start": _locate(recipe.start, settings, store)})
    except (StageError, UsageError) as error:
        raise UsageError(f"start.checkpoint: {error}") from None


def check(recipe: AnyRecipe) -> None:
    """UsageError for a start that post-training cannot work with. A pinned one is known to do, and not fetched here."""
    if (
        isinstance(recipe, StartRecipe)
        and isinstance(recipe.start, LocatedStart)
        and recipe.start.path.suffix != ".toml"
    ):
        shape_of(recipe.start)


def shape_of(start: StartConfig) -> ModelConfig:
    """The shape of a located start; UsageError for a checkpoint that post-training cannot work with.

    A pinned one is fetched for that.
    """
    assert isinstance(start, LocatedStart), "the recipe goes through locate first"
    try:
        return check_start(checkpoint_file(start.path), start.checkpoint)
    except StageError as error:
        raise UsageError(f"start.checkpoint: {error}") from None


def _locate(start: StartConfig, settings: Settings, store: ArtifactStore) -> LocatedStart:
    from flows.checkpoints import find_checkpoint  # not above: a plan waits for no catalog that it does not ask

    name = start.checkpoint
    path = _path_of(name)
    if path is None:
        if "/" in name or name.endswith((".gguf", ".toml")):
            raise StageError(f"{name}: no such file or folder")
        artifact = find_checkpoint(name, settings, store)
        path, content = artifact.path, artifact.digest
    elif path.suffix == ".toml":
        pinned = read_pinned(path)
        content = _digest({pinned.member: pinned.sha256})
    else:
        content = _digest(_hashes(checkpoint_parts(path)))
    return LocatedStart(checkpoint=name, dtype=start.dtype, content=content, path=path)


def _path_of(name: str) -> Path | None:
    """A folder or file, or the file that pins a package, relative to the working or the checkout folder."""
    path = Path(name).expanduser()
    if path.exists():
        return path
    if path.suffix == ".toml":
        return CHECKOUT / name if (CHECKOUT / name).is_file() else None
    return _pin_of(name)


def _pin_of(package: str) -> Path | None:
    """The file of recipes/checkpoints that pins ``package``."""
    for path in sorted((CHECKOUT / "recipes" / "checkpoints").glob("*.toml")):
        if read_pinned(path).package.partition("==")[0] == package:
            return path
    return None


def _hashes(files: dict[str, Path]) -> dict[str, str]:
    """Name -> sha256."""
    with ThreadPoolExecutor(READERS) as pool:
        return dict(zip(files, pool.map(sha256_of, files.values()), strict=True))


def _digest(files: dict[str, str]) -> str:
    lines = "".join(f"{sha256}  {name}\n" for name, sha256 in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


__all__ = ["check", "locate", "shape_of"]
