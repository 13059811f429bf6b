"""One request on its way through the engine: its tokens so far, its pages, its random stream."""

import hashlib
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from model.generation.attention import span
from model.generation.layout import Stretch
from model.generation.pages import PAGE
from model.generation.request import Finish, Request
from model.generation.sampling import Penalty, Row
from model.generation.text import TextStream

if TYPE_CHECKING:
    from model.generation.grammar import Grammar


class Sequence:
    """The state of one request. What is in the pages is ``tokens[:computed]``; a preempted one keeps all but those."""

    def __init__(
        self, id: int, request: Request, limit: int, text: TextStream | None = None, grammar: "Grammar | None" = None
    ) -> None:
        """``limit``: tokens that prompt and answer together may have."""
        self.id, self.request, self.limit = id, request, limit
        self.tokens = list(request.prompt)
        self.prompt_length = len(self.tokens)
        self.computed = 0
        self.reading = False
        """Admitted, and not all of its tokens read yet."""
        self.pages: list[int] = []
        self.pooled: Tensor | None = None
        """(H,) sum of the hidden states of ``tokens[:computed]``, of a pooled request."""
        self.table = np.zeros(span(limit) // PAGE, np.int64)
        self.text, self.grammar = text, grammar
        self._digests: list[bytes] = []
        self._uniforms = random_stream(request) if request.temperature > 0 else None
        self._answered: Counter[int] = Counter()
        self._seen = dict.fromkeys(self.tokens) if request.penalised else {}

    @property
    def remaining(self) -> int:
        """Tokens that are not in the pages yet: one while the answer is written."""
        return len(self.tokens) - self.computed

    def hold(self, page: int) -> None:
        """``page`` holds the next tokens."""
        self.table[len(self.pages)] = page
        self.pages.append(page)

    def let_go(self) -> list[int]:
        """Forget the pages, which are returned, last one first: beginnings are to be kept the longest."""
        pages, self.pages = self.pages[::-1], []
        self.table[:] = 0
        self.computed, self.reading, self.pooled = 0, False, None
        return pages

    def stretch(self, end: int) -> Stretch:
        return Stretch(self.tokens[self.computed : end], self.computed, self.table)

    def pool(self, hidden: Tensor) -> None:
        """Add the hidden states (n, H) of its next tokens."""
        total = hidden.float().sum(dim=0)
        self.pooled = total if self.pooled is None else self.pooled + total

    # ---- what pages are published under -----------------------------------------------------------------

    def page_digest(self, page: int) -> bytes:
        """Of all tokens up to the end of this full page."""
        while len(self._digests) <= page:
            begin = len(self._digests) * PAGE
            before = self._digests[-1] if self._digests else b""
            self._digests.append(_digest(before, self.tokens[begin : begin + PAGE]))
        return self._digests[page]

    def whole_digest(self) -> bytes:
        """Of all tokens, as a text that ends here."""
        full = len(self.tokens) // PAGE
        before = self.page_digest(full - 1) if full else b""
        return _digest(b"end" + before, self.tokens[full * PAGE :])

    # ---- the next token ---------------------------------------------------------------------------------

    def row(self) -> Row:
        """How its next token is chosen; GrammarError where its grammar allows none."""
        request = self.request
        penalty = None
        if request.penalised:
            penalty = Penalty(
                request.repetition_penalty,
                request.presence_penalty,
                request.frequency_penalty,
                seen=torch.tensor(list(self._seen), dtype=torch.long),
                answered=torch.tensor(list(self._answered), dtype=torch.long),
                counts=torch.tensor(list(self._answered.values()), dtype=torch.float32),
            )
        return Row(
            request.temperature,
            request.top_p,
            request.top_k,
            0.0 if self._uniforms is None else self._uniforms.random(),
            request.top_log_probs,
            request.log_probs_of,
            penalty,
            None if self.grammar is None else self.grammar.allowed(),
        )

    def take(self, token: int) -> tuple[str, Finish | None, int | str | None]:
        """Append the chosen token: new text, whether and why the answer ends, and what ended it."""
        self.tokens.append(token)
        if self.request.penalised:
            self._answered[token] += 1
            self._seen[token] = None
        said = "" if self.text is None else self.text.push(token)
        finish: Finish | None = None
        stop: int | str | None = None
        if self.text is not None and self.text.stopped is not None:
            finish, stop = "stop", self.text.stopped
        elif token in self.request.stop_ids:
            finish, stop = "stop", token
        elif self.grammar is not None and self.grammar.accept(token):
            finish = "stop"
        elif len(self.tokens) >= self.limit:
            finish = "length"
        if finish is not None and self.text is not None:
            said += self.text.flush()
        return said, finish, stop


def random_stream(request: Request) -> np.random.Generator:
    """Numbers that depend on seed, prompt and sample alone: the k-th one chooses the answer's k-th token."""
    content = np.asarray(request.prompt, dtype=np.int64).tobytes()
    label = b"%d %d %s" % (request.seed, request.sample, content)
    return np.random.Generator(np.random.Philox(key=int.from_bytes(hashlib.sha256(label).digest()[:16], "little")))


def _digest(before: bytes, tokens: list[int]) -> bytes:
    return hashlib.blake2b(before + np.array(tokens, np.int64).tobytes(), digest_size=16).digest()
