"""What the next step computes: who is admitted, who reads how much of its prompt, who has to give its pages back.

Texts that write come first, one token each; prompts are read beside them in chunks, so that a long one stalls nobody.
A request is admitted when there are pages for its whole prompt; when pages run out later, the one admitted last is
preempted: it keeps its tokens, and reads them again when there is room.
"""

from collections import deque
from dataclasses import dataclass, field

from torch import Tensor

from model.generation.attention import BLOCK
from model.generation.pages import PAGE, Ending, PagePool
from model.generation.sequence import Sequence

# A text that is read sparsely ends its chunks at multiples of this: each chunk estimates anew what is worth reading,
# from its last 64 queries, which must be few of them; and always the same ones, whoever else is there.
SPARSE_CHUNK = 4096
# While nobody writes, nobody can be stalled: chunks have at least this many tokens.
_ALONE_TOKENS = 2048


@dataclass
class Plan:
    work: list[tuple[Sequence, int]] = field(default_factory=list)
    """Whose tokens up to which position are to be computed."""
    known: list[tuple[Sequence, Tensor]] = field(default_factory=list)
    """Whose prompt was read before as a whole, with its last hidden state (H,)."""


class Scheduler:
    """``waiting`` in the order of arrival, ``running`` in the order of admission; both by request id."""

    def __init__(
        self, pool: PagePool, max_running: int, chunk_tokens: int, sparse_from: int | None = None
    ) -> None:  # fmt: skip
        """``sparse_from``: texts of so many tokens are read sparsely; None: none are."""
        self.pool, self.max_running, self.chunk_tokens = pool, max_running, chunk_tokens
        self.sparse_from = sparse_from
        self.waiting: deque[Sequence] = deque()
        self.running: dict[int, Sequence] = {}
        self._reading: dict[bytes, int] = {}  # what is being read, and by whom
        self.preemptions = 0
        self.prompt_tokens = 0
        self.reused_tokens = 0

    def plan(self) -> Plan:
        """The next step; empty only where nothing is left to do, or all that could be done needs others first."""
        plan = Plan()
        for sequence in list(self.running.values()):
            if sequence.remaining == 1 and sequence.id in self.running and self._has_room_for_one(sequence):
                plan.work.append((sequence, len(sequence.tokens)))
        budget = self.chunk_tokens if plan.work else max(self.chunk_tokens, _ALONE_TOKENS)
        for sequence in self.running.values():
            if sequence.remaining > 1:
                budget = self._read(sequence, budget, plan)
        if budget >= BLOCK:
            self._admit(budget, plan)
        return plan

    def computed(self, sequence: Sequence, end: int) -> None:
        """Its tokens up to ``end`` are in its pages: publish those that became full."""
        begin, sequence.computed = sequence.computed, end
        for page in range(begin // PAGE, end // PAGE):
            digest = sequence.page_digest(page)
            self.pool.publish(digest, sequence.pages[page])
            if self._reading.get(digest) == sequence.id:
                del self._reading[digest]

    def read_whole(self, sequence: Sequence, hidden: Tensor) -> None:
        """Its prompt is in its pages and ended in ``hidden`` (H,): an equal prompt needs no reading."""
        digest = sequence.whole_digest()
        slots = (len(sequence.tokens) - 1) % PAGE + 1
        self.pool.publish_ending(digest, Ending(sequence.pages[-1], slots, hidden))
        if self._reading.get(digest) == sequence.id:
            del self._reading[digest]
        sequence.reading = False

    def remove(self, sequence: Sequence) -> None:
        """It has ended, or is not wanted any more: its pages are free at once."""
        if self.running.pop(sequence.id, None) is None:
            self.waiting.remove(sequence)
        self._free(sequence)

    def _free(self, sequence: Sequence) -> None:
        for page in sequence.let_go():
            self.pool.release(page)
        for digest in [digest for digest, reader in self._reading.items() if reader == sequence.id]:
            del self._reading[digest]

    # ---- pages for those that run -----------------------------------------------------------------------

    def _has_room_for_one(self, sequence: Sequence) -> bool:
        """Make sure that its last token has a slot; False where it had to be preempted itself."""
        if sequence.computed < len(sequence.pages) * PAGE:
            return True
        while self.pool.available == 0:
            last = next(reversed(self.running.values()))
            self._preempt(last)
            if last is sequence:
                return False
        sequence.hold(self.pool.take())
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self.preemptions += 1
        del self.running[sequence.id]
        self._free(sequence)
        self.waiting.appendleft(sequence)

    # ---- reading prompts --------------------------------------------------------------------------------

    def _read(self, sequence: Sequence, budget: int, plan: Plan) -> int:
        """Plan a chunk of it, to a block's end unless it is the last one; the budget that is left."""
        end = min(len(sequence.tokens), sequence.computed + budget)
        if self.sparse_from is not None and len(sequence.tokens) >= self.sparse_from:
            end = min(len(sequence.tokens), (sequence.computed // SPARSE_CHUNK + 1) * SPARSE_CHUNK)
        elif end < len(sequence.tokens):
            end -= end % BLOCK
        if end <= sequence.computed:
            return 0
        plan.work.append((sequence, end))
        return budget - (end - sequence.computed)

    def _admit(self, budget: int, plan: Plan) -> None:
        later: list[Sequence] = []
        while self.waiting and budget >= BLOCK and len(self.running) < self.max_running:
            sequence = self.waiting.popleft()
            shared, ending = self._shared(sequence)
            if ending is None and not sequence.request.pooled and self._is_being_read(sequence, len(shared)):
                later.append(sequence)
                continue
            if ending is not None and not self._hold_pages(sequence, shared, ending):
                ending = None  # takes one page more, for the copy, than reading the last tokens again
            if ending is None and not self._hold_pages(sequence, shared, None):
                later.append(sequence)
                break
            self.running[sequence.id] = sequence
            if ending is not None:
                plan.known.append((sequence, ending.hidden))
                continue
            self._announce(sequence)
            budget = self._read(sequence, budget, plan)
        self.waiting.extendleft(reversed(later))

    def _shared(self, sequence: Sequence) -> tuple[list[int], Ending | None]:
        """Pages that hold its beginning already, its last token excluded; and its ending where all of it is known."""
        if sequence.request.pooled:
            return [], None  # the hidden states of all its tokens are wanted, and pages have none
        before_last = (len(sequence.tokens) - 1) // PAGE
        shared: list[int] = []
        while len(shared) < before_last:
            page = self.pool.find(sequence.page_digest(len(shared)))
            if page is None:
                return shared, None
            shared.append(page)
        return shared, self.pool.find_ending(sequence.whole_digest())

    def _is_being_read(self, sequence: Sequence, known_pages: int) -> bool:
        """Another request is reading what this one would read next: waiting for it is cheaper."""
        if sequence.whole_digest() in self._reading:
            return True
        full = (known_pages + 1) * PAGE <= len(sequence.tokens)
        return full and sequence.page_digest(known_pages) in self._reading

    def _hold_pages(self, sequence: Sequence, shared: list[int], ending: Ending | None) -> bool:
        """Give it pages for all its tokens; False, and nothing changed, where there are too few."""
        borrowed = shared if ending is None else [*shared, ending.page]
        for page in borrowed:
            self.pool.retain(page)
        is_copied = ending is not None and ending.tokens < PAGE
        new = -(-len(sequence.tokens) // PAGE) - len(borrowed) + is_copied
        # one page in reserve for each that runs: without, the next page's end would preempt who just came
        if self.pool.available < new + len(self.running):
            for page in borrowed[::-1]:
                self.pool.release(page)
            return False
        if is_copied:
            assert ending is not None
            borrowed = [*shared, self.pool.take()]
            self.pool.copy(ending.page, borrowed[-1])
            self.pool.release(ending.page)
            new = 0
        for page in borrowed:
            sequence.hold(page)
        for _ in range(new):
            sequence.hold(self.pool.take())
        sequence.computed = len(sequence.tokens) if ending is not None else len(shared) * PAGE
        self.prompt_tokens += len(sequence.tokens)
        self.reused_tokens += sequence.computed
        return True

    def _announce(self, sequence: Sequence) -> None:
        sequence.reading = True
        for page in range(sequence.computed // PAGE, len(sequence.tokens) // PAGE):
            self._reading.setdefault(sequence.page_digest(page), sequence.id)
        self._reading.setdefault(sequence.whole_digest(), sequence.id)
