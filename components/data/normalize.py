"""Text normalisation, before anything looks at a document: NFC, plain spaces and newlines, no invisible marks."""

import re
import unicodedata

_NEWLINES = re.compile(r"\r\n?|[\u2028\u2029\x0b\x0c\x85]")
_INVISIBLE = re.compile(
    r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\ufeff]"
)
_SPACES = re.compile(r"[\u00a0\u1680\u2000-\u200a\u202f\u205f]")
_BLANK_LINES = re.compile(r"\n{3,}")


def normalize(text: str, code: bool = False) -> str:
    """NFC (as the tokenizer applies), one kind of newline and space, at most one blank line in a row.

    Source code keeps its characters and blank lines: only newlines and invisible marks change.
    """
    text = _INVISIBLE.sub("", _NEWLINES.sub("\n", text))
    if code:
        return text.strip("\n")
    if not text.isascii():
        text = unicodedata.normalize("NFC", _SPACES.sub(" ", text))
    lines = (line.rstrip() for line in text.split("\n"))  # a regular expression is ten times slower at this
    return _BLANK_LINES.sub("\n\n", "\n".join(lines)).strip()
