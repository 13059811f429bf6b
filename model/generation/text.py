"""Tokens to text as they come: whole characters only, and nothing that may become part of a stop string."""

from collections.abc import Sequence

from model.tokenizer import Tokenizer


class TextStream:
    """The pieces that ``push`` and ``flush`` return join to ``tokenizer.decode`` of the tokens, or to what stands in
    it before the first stop string."""

    def __init__(self, tokenizer: Tokenizer, stop_strings: Sequence[str] = ()) -> None:
        self._decoder, self._stops = tokenizer.stream(), tuple(stop_strings)
        self._held = ""
        self.stopped: str | None = None
        """The stop string that has come; nothing is said after it."""

    def push(self, token: int) -> str:
        """New text that is certain."""
        return self._add(self._decoder.push(token))

    def flush(self) -> str:
        """The rest, at the end of the answer; bytes that never became a character show as U+FFFD."""
        rest = self._add(self._decoder.flush())
        if self.stopped is None:
            rest, self._held = rest + self._held, ""
        return rest

    def _add(self, text: str) -> str:
        if self.stopped is not None:
            return ""
        if not self._stops:
            return text
        self._held += text
        found = [(self._held.index(stop), -len(stop), stop) for stop in self._stops if stop in self._held]
        if found:
            place, _, self.stopped = min(found)
            certain, self._held = self._held[:place], ""
            return certain
        kept = max(_overlap(self._held, stop) for stop in self._stops)
        certain, self._held = self._held[: len(self._held) - kept], self._held[len(self._held) - kept :]
        return certain


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that begins ``stop``."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
