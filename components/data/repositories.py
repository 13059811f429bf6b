"""Code repositories as documents: ``<|repo_name|>`` and the name, then ``<|file_sep|>``, path and content of each file.

The layout is that of Qwen2.5-Coder (arXiv 2409.12186, section 3.2), which learns from whole repositories after single
files. The marks are written as text here; ``shard_writer`` turns those of documents with ``meta["form"]`` =
``repository`` into control tokens. A file that holds a mark itself is left out: it would forge a border.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import BinaryIO

from components.data.records import Broken, Record
from components.data.sources import RepositorySource

REPO_NAME, FILE_SEP = "<|repo_name|>", "<|file_sep|>"
PROSE = {"markdown", "restructuredtext", "text only"}
"""Names of lexers for text that people read: it stays, but does not name the language of a repository."""

Files = Iterable[tuple[str, BinaryIO]]


def repository_records(files: Files, source: RepositorySource) -> Iterator[tuple[str, Record | Broken]]:
    """File or repository name, and document or problem, of files in order of their names."""
    for repository, members in groupby(files, key=lambda file: repository_of(file[0], source.depth, source.name)):
        parts: list[str] = []
        size = 0
        languages: Counter[str] = Counter()
        for path, stream in members:
            read = read_file(path, stream, source)
            if isinstance(read, Broken):
                yield path, read
            if not isinstance(read, tuple):
                continue
            content, language = read
            text = f"{FILE_SEP}{inside(path, source.depth)}\n{content}\n"
            if parts and size + len(text.encode()) > source.document_bytes:
                yield repository, record(repository, parts, languages)
                parts, size, languages = [], 0, Counter()
            parts.append(text)
            size += len(text.encode())
            languages[language] += len(text)
        if parts:
            yield repository, record(repository, parts, languages)


def record(repository: str, parts: list[str], languages: Counter[str]) -> Record:
    """One document. The programming language is that of most of its characters."""
    code = {name: size for name, size in languages.items() if name not in PROSE} or languages
    return Record(
        f"{REPO_NAME}{repository}\n" + "".join(parts),
        {
            "form": "repository", "repository": repository, "files": str(len(parts)),
            "programming_language": max(sorted(code), key=code.__getitem__),
        },
    )  # fmt: skip


def read_file(path: str, stream: BinaryIO, source: RepositorySource) -> tuple[str, str] | Broken | None:
    """Content and language of a file; None for what is no code: unknown names, binaries, data, empty files."""
    language = programming_language(path)
    if language is None:
        return None
    data = stream.read(source.max_file_bytes + 1)
    if len(data) > source.max_file_bytes or b"\0" in data:
        return None
    try:
        content = data.decode("utf-8").replace("\r\n", "\n").strip("\n")
    except UnicodeDecodeError as error:
        return Broken(0, f"not UTF-8: {error.reason}", error.start)
    if "<|" in content and any(mark in content for mark in (REPO_NAME, FILE_SEP)):
        return Broken(0, "holds a control token")
    return (content, language) if content.strip() else None


def programming_language(path: str) -> str | None:
    """Lower-case name of the language that a file's name implies, after Pygments' table of 500; None if unknown."""
    from pygments.lexers import find_lexer_class_for_filename

    lexer = find_lexer_class_for_filename(path.rpartition("/")[2])
    return lexer.name.lower() if lexer else None


def repository_of(path: str, depth: int, default: str) -> str:
    """``owner/name`` of ``owner/name/src/a.py`` at depth 2; ``default`` for files above that depth."""
    folders = path.split("/")[:-1]
    return "/".join(folders[:depth]) if depth and len(folders) >= depth else default


def inside(path: str, depth: int) -> str:
    """The path of a file within its repository."""
    steps = path.split("/")
    return "/".join(steps[depth:]) if len(steps) > depth else path
