"""Web pages and WARC archives: the main text of a page, without navigation, advertisements and comments.

Extraction is trafilatura's (Barbaresi 2021), archives are read by warcio: both in the extra ``web``. A page without
main text (a redirect, a login form) is no broken record; it is passed over.
"""

from functools import cache
from types import ModuleType
from typing import BinaryIO

from components.data.records import Broken, Record, Records
from components.stage import StageError

MAX_PAGE = 10_000_000
"""Bytes; beyond it are generated listings, on which extraction takes minutes."""
PAGE_TYPES = ("text/html", "application/xhtml+xml")


def read_html(stream: BinaryIO) -> Records:
    """One page a file."""
    data = stream.read(MAX_PAGE + 1)
    if len(data) <= MAX_PAGE and (text := main_text(data)):
        yield Record(text)


def read_warc(stream: BinaryIO) -> Records:
    """Every page of an archive that was answered with status 200, with its address, one record in memory at a time.

    A damaged record ends the archive: where the next one starts is then unknown. What came before it stands.
    """
    archive = library("warcio.archiveiterator")
    errors = library("warcio.exceptions")
    iterator = archive.ArchiveIterator(stream, check_digests=False)
    number = 0
    try:
        for record in iterator:
            number += 1
            headers = record.http_headers
            if record.rec_type != "response" or headers is None or headers.get_statuscode() != "200":
                continue
            if not (headers.get_header("Content-Type") or "").lower().startswith(PAGE_TYPES):
                continue
            data = record.content_stream().read(MAX_PAGE + 1)
            if len(data) <= MAX_PAGE and (text := main_text(data)):
                yield Record(text, {"url": record.rec_headers.get_header("WARC-Target-URI") or ""})
    except (errors.ArchiveLoadFailed, OSError, EOFError, ValueError) as error:
        yield Broken(number + 1, f"damaged archive: {error}", iterator.offset)


def main_text(page: bytes) -> str:
    """The main text of an HTML page in any encoding, paragraphs a line each; empty if there is none."""
    return library("trafilatura").extract(page, include_comments=False) or ""


@cache
def library(name: str) -> ModuleType:
    """A module of the extra ``web``, or a StageError that says how to install it."""
    import logging
    from importlib import import_module

    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)  # it reports every page without text as an error
    try:
        return import_module(name)
    except ImportError as error:
        raise StageError(
            f"html and warc sources need the extra 'web' ({error}): pip install --editable '.[web]'"
        ) from None
