"""Articles of a MediaWiki XML dump as plain text.

Wikitext is not a regular language: templates and tables nest, so they are taken out from the inside, innermost
first, until none is left. What remains is prose with headings, which is what a language model should read.
"""

import html
import re
from collections.abc import Iterator
from typing import BinaryIO
from xml.etree.ElementTree import iterparse

MIN_ARTICLE = 200
"""Characters; below it are redirects and stubs."""

_COMMENT = re.compile(r"<!--.*?-->", re.S)
_REFERENCE = re.compile(r"<ref[^>/]*/>|<ref[^>]*>.*?</ref>", re.S | re.I)
_BLOCK = re.compile(r"<(math|gallery|timeline|code|source|syntaxhighlight|score|imagemap)\b.*?</\1>", re.S | re.I)
_INNER_TEMPLATE = re.compile(r"\{\{[^{}]*\}\}")
_INNER_TABLE = re.compile(r"\{\|(?:(?!\{\||\|\}).)*\|\}", re.S)
_INNER_MEDIA = re.compile(r"\[\[(?:File|Image|Category|[a-z]{2,3}(?:-[a-z]+)?):(?:[^\[\]]|\[\[[^\[\]]*\]\])*\]\]", re.I)
_LINK = re.compile(r"\[\[(?:[^\[\]|]*\|)?([^\[\]|]*)\]\]")
_EXTERNAL = re.compile(r"\[(?:https?|ftp)://[^\s\]]+\s*([^\]]*)\]")
_TAG = re.compile(r"</?[a-zA-Z][^>]*>")
_QUOTES = re.compile(r"'{2,5}")
_HEADING = re.compile(r"^=+\s*(.*?)\s*=+\s*$", re.M)
_LIST = re.compile(r"^[*#:;]+\s*", re.M)
_BACK_MATTER = re.compile(
    r"^=+\s*(?:References|Notes|See also|External links|Further reading|Bibliography|Sources|Footnotes|Citations)"
    r"\s*=+\s*$.*?(?=^==[^=]|\Z)",
    re.M | re.S | re.I,
)


def articles(stream: BinaryIO) -> Iterator[str]:
    """Title and plain text of every article in the main namespace, in dump order."""
    title, namespace = "", ""
    for _, element in iterparse(stream):
        tag = element.tag.rpartition("}")[2]
        if tag == "title":
            title = element.text or ""
        elif tag == "ns":
            namespace = element.text or ""
        elif tag == "text" and namespace == "0":
            wikitext = element.text or ""
            if not wikitext.lstrip().lower().startswith("#redirect"):
                text = plain_text(wikitext)
                if len(text) >= MIN_ARTICLE:
                    yield f"{title}\n\n{text}"
        elif tag == "page":
            element.clear()


def plain_text(wikitext: str) -> str:
    """Prose of a wikitext page: no templates, tables, references, media, markup or back matter."""
    text = _BLOCK.sub("", _REFERENCE.sub("", _COMMENT.sub("", html.unescape(wikitext))))
    text = _BACK_MATTER.sub("", text)
    for inner in (_INNER_TEMPLATE, _INNER_TABLE, _INNER_MEDIA):
        found = 1
        while found:
            text, found = inner.subn("", text)
    text = _LINK.sub(r"\1", text)
    text = _EXTERNAL.sub(r"\1", text)
    text = _QUOTES.sub("", _TAG.sub("", text))
    text = _LIST.sub("- ", _HEADING.sub(r"\1", text))
    text = re.sub(r"\(\s*[,;]?\s*\)", "", text)  # brackets that held only a template
    text = re.sub(r"[ \t]+", " ", text)
    return re.sub(r"\n\s*\n+", "\n\n", text).strip()
