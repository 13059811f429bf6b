"""``qwenforge artifacts``: what the store holds, whether it is intact, and what nobody needs any more."""

import getpass
from collections.abc import Mapping, Sequence
from typing import Any

from flows.checkpoints import find_digest
from flows.errors import UsageError
from flows.plan import gib
from flows.terminal import Display, quantity, stdout, table
from infra.catalog import Catalog
from infra.catalog.access import Access
from infra.errors import CorruptArtifact
from infra.settings import load_settings
from infra.store import ArtifactStore, open_store

DIFFERING_KINDS = ("mixture", "corpus")
"""Artifacts of documents."""


def list_artifacts(kind: str = "") -> list[dict[str, Any]]:
    """All artifacts, oldest first."""
    return [
        {
            "digest": manifest.digest,
            "kind": manifest.kind,
            "stage": manifest.stage,
            "files": len(manifest.files),
            "bytes": manifest.size,
            "created_at": manifest.created_at.isoformat(timespec="seconds"),
        }
        for manifest in open_store(load_settings()).list()
        if kind in ("", manifest.kind)
    ]


def print_artifacts(rows: list[dict[str, Any]]) -> None:
    headers = {"artifact": "left", "stage": "left", "kind": "left", "files": "right", "size": "right", "made": "left"}
    cells = [
        [row["digest"][:12], row["stage"], row["kind"], row["files"], quantity(row["bytes"], "B"), row["created_at"]]
        for row in rows
    ]
    stdout().print(table(f"{len(rows)} artifacts", headers, cells))


def show_artifact(name: str) -> dict[str, Any]:
    """The manifest of one artifact, with its digest and folder."""
    settings = load_settings()
    store = open_store(settings)
    artifact = store.open(find_digest(name, settings, store))
    return {"digest": artifact.digest, "path": str(artifact.path), **artifact.manifest.model_dump(mode="json")}


def diff_artifacts(first: str, second: str) -> dict[str, Any]:
    """What the mixture (or corpus) ``second`` has otherwise than ``first``; both by digest or alias."""
    from components.data.mixture_diff import difference

    settings = load_settings()
    store = open_store(settings)
    sides = [store.open(find_digest(name, settings, store)) for name in (first, second)]
    for name, side in zip((first, second), sides, strict=True):
        if side.kind not in DIFFERING_KINDS:
            raise UsageError(f"{name} is an artifact of kind {side.kind}; diff takes {' or '.join(DIFFERING_KINDS)}")
    names = [{"digest": side.digest, "stage": side.manifest.stage} for side in sides]
    return {"artifacts": names, **difference(sides[0].path, sides[1].path)}


def print_diff(found: dict[str, Any]) -> None:
    """The differences for people, the largest domain of the second side first."""
    headers = {
        "domain": "left", "share": "right", "factor": "right", "texts": "right", "copies": "right", "in": "right",
        "out": "right", "recopied": "right", "moved": "right",
    }  # fmt: skip
    rows = []
    for domain, row in found["domains"].items():
        came, went = (f"{row[way]['documents']:,}" for way in ("in", "out"))
        rows.append([
            domain, arrow(row["share"], "{:.2%}"), arrow(row["factor"], "{:.2f}"), arrow(row["documents"], "{:,}"),
            arrow(row["copies"], "{:.2f}"), came, went, f"{row['recounted']:,}", f"{row['moved']:,}",
        ])  # fmt: skip
    first, second = (f"{side['stage']} {side['digest'][:12]}" for side in found["artifacts"])
    console = stdout()
    console.print(table(f"{first} -> {second}", headers, rows))
    sizes = arrow([quantity(size, "B") for size in found["bytes"]], "{}")
    console.print(
        f"{arrow(found['documents'], '{:,}')} documents, {sizes} with copies; "
        f"{found['in']:,} in, {found['out']:,} out, {found['recounted']:,} with other copies, "
        f"{found['moved']:,} in another domain; total variation of the shares {found['total_variation']:.4f}"
    )


def arrow(sides: Sequence[Any], form: str) -> str:
    """``12% -> 15%``, or one value where the sides are equal as shown."""
    shown = ["–" if side is None else form.format(side) for side in sides]
    return shown[0] if shown[0] == shown[1] else " -> ".join(shown)


def verify_artifacts(name: str = "") -> bool:
    """Read all bytes of one artifact or all; True when they are what was committed."""
    settings = load_settings()
    store, display = open_store(settings), Display()
    digests = [find_digest(name, settings, store)] if name else store.backend.names("objects")
    damaged = 0
    with display.live(1), display.progress(len(digests), "verify", unit="artifact") as bar:
        for digest in digests:
            try:
                store.verify(digest)
            except CorruptArtifact as error:
                damaged += 1
                display.line(str(error))
            bar.advance()
    print(f"{len(digests)} artifacts read, {damaged} damaged")
    return damaged == 0


def collect_garbage(*, dry_run: bool) -> None:
    """Delete what neither an alias nor the last completed run of any recipe leads to."""
    settings = load_settings()
    store, catalog = open_store(settings), Catalog(settings.catalog_url)
    keep = needed(store, catalog)
    sizes = {manifest.digest: manifest.size for manifest in store.list()}
    removed = [digest for digest in sizes if digest not in keep] if dry_run else store.gc(keep)
    if removed and not dry_run:
        access = Access(settings.catalog_url)
        for digest in removed:
            access.note(getpass.getuser(), "delete artifact", digest)
    freed = sum(sizes.get(digest, 0) for digest in removed)
    print(f"{'would delete' if dry_run else 'deleted'} {len(removed)} artifacts, {gib(freed)}; {len(keep)} are kept")


def needed(store: ArtifactStore, catalog: Catalog) -> set[str]:
    """Artifacts of each recipe's last completed run, of unfinished runs since, behind aliases, and their ancestors."""
    waiting: list[str] = []
    completed: set[str] = set()
    for run in catalog.list_runs(limit=10_000):  # newest first
        if run.name.rpartition("-")[0].rpartition("-")[0] in completed:
            continue
        waiting += [stage.artifact_digest for stage in catalog.stages_of(run.id) if stage.artifact_digest]
        if run.state == "completed":
            completed.add(run.name.rpartition("-")[0].rpartition("-")[0])
    waiting += catalog.aliases().values()
    return ancestors(store, waiting)


def ancestors(store: ArtifactStore, digests: list[str]) -> set[str]:
    """``digests`` and everything that they were made from, as far as it is in the store."""
    found: set[str] = set()
    waiting = list(digests)
    while waiting:
        digest = waiting.pop()
        if digest not in found and store.exists(digest):
            found.add(digest)
            inputs: Mapping[str, str] = store.manifest(digest).inputs
            waiting.extend(inputs.values())
    return found


__all__ = ["ancestors", "collect_garbage", "diff_artifacts", "list_artifacts", "needed", "print_artifacts",
           "print_diff", "show_artifact", "verify_artifacts"]  # fmt: skip
