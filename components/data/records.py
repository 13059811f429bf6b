"""What readers yield: a text with what the file says about it, or why there is none."""

from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Broken:
    """A record that could not be read: line (or row) number from 1, 0 for the file as a whole, why, and at which byte
    of the decompressed file it starts."""

    line: int
    reason: str
    offset: int = 0


@dataclass(frozen=True)
class Record:
    """A text; ``meta`` (page address, programming language) becomes the document's."""

    text: str
    meta: dict[str, str] = field(default_factory=dict)


Records = Iterator[Record | Broken]
