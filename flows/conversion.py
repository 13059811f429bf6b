"""``qwenforge import`` and ``qwenforge export``: checkpoints of others in, ours out in their formats."""

import re
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import ValidationError

from components.stage import StageError
from flows.checkpoints import find_checkpoint
from flows.errors import UsageError
from flows.terminal import Display, count, quantity
from infra.catalog import Catalog
from infra.catalog.gates import Gates
from infra.settings import load_settings
from infra.store import open_store

_ALIAS = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_KINDS = re.compile(r"[._-](f16|f32|bf16|i?q\d\w*)$", re.IGNORECASE)
"""How GGUF files tell their type at the end of their names."""


def import_command(source: Path, *, dtype: str | None = None, alias: str = "") -> dict[str, Any]:
    """Make the checkpoint at ``source`` an artifact without ancestors, and give it a name."""
    from components.serving.importing import ImportConfig, import_checkpoint
    from flows.stages import config_digest

    if not source.exists():
        raise UsageError(f"{source}: no such file or folder")
    source, name = _fetched(source)
    name = alias or name
    _check_alias(name)
    settings, display = load_settings(), Display()
    if Gates(settings.catalog_url).recent(1, alias=name):
        raise UsageError(f"alias {name} is moved by qwenforge promote alone; choose another with --alias")
    store, config = open_store(settings), ImportConfig.model_validate({"dtype": dtype})
    # On the store's own disk, so that committing links the files and copies none.
    with TemporaryDirectory(dir=settings.home, prefix="import-") as folder, display.live():
        try:
            facts = import_checkpoint(config, source, Path(folder), display.progress)
        except StageError as error:
            raise UsageError(str(error)) from None
        artifact = store.commit(
            Path(folder), kind="checkpoint", stage="import", stage_version="1", config_digest=config_digest(config),
            inputs={}, seed=0, summary=facts,
        )  # fmt: skip
    catalog = Catalog(settings.catalog_url)
    catalog.record_artifact(artifact.manifest)
    catalog.set_alias(name, artifact.digest, action="import")
    return {"alias": name, "digest": artifact.digest, "bytes": artifact.manifest.size, **facts}


def imported_line(done: Mapping[str, Any]) -> str:
    """What ``import`` says at its end."""
    chat = f"qwenforge chat {done['alias']}" if done["conversations"] else "its conversations are not in ChatML"
    return (
        f"{done['alias']}: {count(done['parameters'])} parameters, context {done['context_length']:,}, "
        f"{quantity(done['bytes'], 'B')}, artifact {done['digest'][:12]} ({chat})"
    )


def export_command(name: str, target: Path, **choices: Any) -> dict[str, Any]:
    """Write a checkpoint as a new folder or GGUF file; ``choices`` are the fields of ``FormatConfig``."""
    from components.serving.formats import FormatConfig, export_checkpoint

    if target.exists():
        raise UsageError(f"{target} is there already; name a new one")
    if target.suffix == ".gguf" and choices.get("format") != "gguf":
        raise UsageError(f"{target} is named like a GGUF file: add --format gguf, or name a folder")
    try:
        config = FormatConfig.model_validate(choices)
    except ValidationError as error:
        raise UsageError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
    settings, display = load_settings(), Display()
    checkpoint = find_checkpoint(name, settings, open_store(settings))
    try:
        with display.live():
            return export_checkpoint(config, checkpoint.path, target, display.progress)
    except StageError as error:
        raise UsageError(f"{name}: {error}") from None


def exported_line(done: Mapping[str, Any]) -> str:
    """What ``export`` says at its end."""
    said = [f"{done['path']}: {quantity(done['bytes'], 'B')}"]
    if "perplexity_before" in done:
        before, after = done["perplexity_before"], done["perplexity_after"]
        said.append(f"perplexity {before:.4g} before, {after:.4g} after ({after / before - 1:+.2%})")
    if "logits_difference" in done:
        peer = "transformers'" if "tokens" in done else "the checkpoint's"
        said.append(f"logits within {done['logits_difference']:.1e} of {peer}")
    if "tokens" in done:
        said.append(f"{done['equal_tokens']} of {done['tokens']} greedy tokens equal")
    return ", ".join(said)


def _fetched(source: Path) -> tuple[Path, str]:
    """The checkpoint itself, fetched where ``source`` describes a pinned one, and what to call it."""
    from components.serving.pinned import fetch_pinned, read_pinned

    if source.suffix == ".toml":
        try:
            pinned = read_pinned(source)
            return fetch_pinned(pinned), pinned.name
        except StageError as error:
            raise UsageError(str(error)) from None
    stem = source.resolve().name if source.is_dir() else _KINDS.sub("", source.stem)
    return source, re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-.")[:64] or "imported"


def _check_alias(name: str) -> None:
    from components.serving.export import ALIASES

    if name in ALIASES or name == "start":
        raise UsageError(f"alias {name} is kept for recipes; choose another with --alias")
    if not _ALIAS.fullmatch(name):
        raise UsageError(f"alias {name!r}: use up to 64 of a-z, 0-9, '.', '_' and '-'; choose one with --alias")


__all__ = ["export_command", "exported_line", "import_command", "imported_line"]
