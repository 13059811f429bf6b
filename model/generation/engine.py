"""The engine: requests come and go, ``step`` moves all of them on by a token.

Not safe for threads: one thread adds, steps and cancels. A request's tokens depend on the request alone; on a CPU
with a compiler or oneDNN every number on the way to them has the same bits alone and in any company, chunk or order
(tested), on other devices they may differ by rounding, which can turn a near tie.
"""

import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from model.generation.attention import BLOCK
from model.generation.layout import Stretch
from model.generation.native import NativeNetwork, can_run
from model.generation.network import Network
from model.generation.pages import PAGE, PagePool, fitting_pages
from model.generation.request import Event, Request
from model.generation.sampling import Row, sample
from model.generation.scheduler import Scheduler
from model.generation.sequence import Sequence
from model.generation.text import TextStream

if TYPE_CHECKING:
    from model.config import ModelConfig
    from model.generation.grammar import Grammar, Grammars
    from model.tokenizer import Tokenizer
    from model.transformer import Transformer

# Logits held at once (elements).
_LOGITS_AT_ONCE = 16 * 1024 * 1024
_RATE_SECONDS = 10.0


class _Network(Protocol):
    """A decoder over pages: ``network.Network`` or ``native.NativeNetwork``."""

    config: "ModelConfig"
    dtype: torch.dtype
    device: torch.device
    sparse_from: int | None

    def lay_out(self, stretches: list[Stretch]) -> Any: ...

    def __call__(self, batch: Any, memory: Tensor, wanted: Tensor) -> Tensor: ...

    def logits(self, hidden: Tensor) -> Tensor: ...

    def whole(self, hidden: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Statistics:
    """How the engine is doing. Counters count since it was made."""

    running: int
    waiting: int
    pages: int
    pages_used: int
    """Held by requests."""
    pages_cached: int
    """Held by nobody, kept for prompts that begin alike."""
    prompt_tokens: int
    """Of requests that were admitted, each time that they were."""
    reused_tokens: int
    """Of these, tokens that were found in the pages instead of read."""
    answer_tokens: int
    preemptions: int
    tokens_per_second: float
    """Answer tokens over the last ten seconds."""


class Engine:
    """Continuous batching of one model's answers."""

    def __init__(
        self, model: "Transformer", tokenizer: "Tokenizer | None" = None, *, max_running: int = 64,
        pages: int | None = None, chunk_tokens: int | None = None, context: int | None = None, pack: bool = True,
    ) -> None:  # fmt: skip
        """For weights that stay as they are: after an update, make a new engine. The model itself is not kept.

        ``tokenizer``: needed for text, stop strings and grammars. ``max_running``: requests that write at once.
        ``pages``: of the cache, 16 tokens each; by default what fits a quarter of the memory. ``chunk_tokens``: of
        prompts, read in one step beside texts that write; 64 on a CPU, where a matrix product is as fast as it gets
        from about 32 rows on, else 2,048. ``context``: tokens of prompt and answer together, by default what the model
        is made for. ``pack``: faster products on a CPU, for a second copy of the matrices.
        """
        if max_running < 1 or (pages is not None and pages < 1):
            raise ValueError(f"max_running {max_running} and pages {pages} must be at least 1")
        self.network: _Network = NativeNetwork(model) if pack and can_run(model) else Network(model, pack=pack)
        config, device, dtype = model.config, self.network.device, self.network.dtype
        if chunk_tokens is None:
            chunk_tokens = 64 if device.type == "cpu" else 2048
        if chunk_tokens < BLOCK:
            raise ValueError(f"chunk_tokens {chunk_tokens} must be at least {BLOCK}")
        self.context = context or config.context_length
        if pages is None:
            pages = min(max_running * -(-self.context // PAGE), fitting_pages(config, dtype, device))
        self.context = min(self.context, pages * PAGE)
        self.tokenizer = tokenizer
        self.pool = PagePool(config, pages, dtype, device)
        self._scheduler = Scheduler(self.pool, max_running, chunk_tokens, self.network.sparse_from)
        self._grammars: Grammars | None = None
        self._sequences: dict[int, Sequence] = {}
        self._next = 0
        self._rate = _Rate()

    @property
    def busy(self) -> bool:
        """There are requests that have not ended."""
        return bool(self._sequences)

    def add(self, request: Request) -> int:
        """Queue a request; ValueError where it cannot be answered. Returns the id that its events carry."""
        length, rows = len(request.prompt), self.network.config.vocab_size
        if length >= self.context:
            raise ValueError(
                f"the prompt has {length:,} tokens and the context {self.context:,}, one of them for the answer: "
                f"shorten the prompt by {length - self.context + 1:,}"
            )
        for name, tokens in (("the prompt", request.prompt), ("log_probs_of", request.log_probs_of)):
            if tokens and not 0 <= min(tokens) <= max(tokens) < rows:
                raise ValueError(f"{name} holds a token outside the vocabulary of {rows:,} rows")
        grammar = text = None
        if self.tokenizer is not None:
            text = TextStream(self.tokenizer, request.stop_strings)
            if request.constrained:
                grammar = self._start_grammar(self.tokenizer, request)
        elif request.stop_strings or request.constrained:
            raise ValueError("stop strings, schemas and expressions need an engine with a tokenizer")
        limit = min(length + request.max_new_tokens, self.context)
        sequence = Sequence(self._next, request, limit, text, grammar)
        self._next += 1
        self._sequences[sequence.id] = sequence
        self._scheduler.waiting.append(sequence)
        return sequence.id

    def cancel(self, id: int) -> bool:
        """Forget a request and free its pages at once; False where it has ended already."""
        sequence = self._sequences.pop(id, None)
        if sequence is None:
            return False
        self._scheduler.remove(sequence)
        return True

    @torch.inference_mode()
    def step(self) -> list[Event]:
        """Read a chunk of the prompts that are to be read, and write one token of each other text."""
        plan = self._scheduler.plan()
        writers, hidden, events = self._compute(plan.work)
        for sequence, known in plan.known:
            writers.append(sequence)
            hidden.append(known[None])
        if not writers:
            return events
        written = self._write(writers, torch.cat(hidden) if len(hidden) > 1 else hidden[0])
        self._rate.count(len(written))
        return events + written

    def statistics(self) -> Statistics:
        scheduler = self._scheduler
        return Statistics(
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            pages=self.pool.total,
            pages_used=self.pool.used,
            pages_cached=self.pool.cached,
            prompt_tokens=scheduler.prompt_tokens,
            reused_tokens=scheduler.reused_tokens,
            answer_tokens=self._rate.total,
            preemptions=scheduler.preemptions,
            tokens_per_second=self._rate.recent(),
        )

    # ---- one step ---------------------------------------------------------------------------------------

    def _compute(self, work: list[tuple[Sequence, int]]) -> tuple[list[Sequence], list[Tensor], list[Event]]:
        """Run the planned tokens through the network: those that write now, their last hidden states, (R, H) in a list,
        and the events of those that were to be pooled."""
        if not work:
            return [], [], []
        stretches = [sequence.stretch(end) for sequence, end in work]
        batch = self.network.lay_out(stretches)
        done = [index for index, (sequence, end) in enumerate(work) if end == len(sequence.tokens)]
        done.sort(key=batch.last.__getitem__)
        rows = [batch.last[index] for index in done]
        pooled = {index for index, (sequence, _) in enumerate(work) if sequence.request.pooled}
        of_pooled = [row for row, owner in enumerate(batch.owners) if owner in pooled] if pooled else []
        wanted = torch.tensor(rows + of_pooled, dtype=torch.long, device=self.network.device)
        hidden, states = self.network(batch, self.pool.memory, wanted).split((len(rows), len(of_pooled)))
        places: dict[int, list[int]] = {index: [] for index in pooled}
        for place, row in enumerate(of_pooled):
            places[batch.owners[row]].append(place)
        for index, own in places.items():
            work[index][0].pool(states[own])
        for sequence, end in work:
            self._scheduler.computed(sequence, end)
        writers = [work[index][0] for index in done]
        for sequence, state in zip(writers, hidden, strict=True):
            if sequence.reading:
                self._scheduler.read_whole(sequence, state.clone())
        if not pooled:
            return writers, [hidden] if writers else [], []
        events = [self._end(each, self._embedding(each)) for each in writers if each.request.pooled]
        kept = [place for place, each in enumerate(writers) if not each.request.pooled]
        return [writers[place] for place in kept], [hidden[kept]] if kept else [], events

    def _embedding(self, sequence: Sequence) -> Event:
        assert sequence.pooled is not None
        mean = self.network.whole(sequence.pooled / len(sequence.tokens))
        return Event(sequence.id, None, 0.0, finish="stop", embedding=mean.tolist())

    def _write(self, writers: list[Sequence], hidden: Tensor) -> list[Event]:
        """Choose the next token of each, from its last hidden state (R, H)."""
        events: list[Event] = []
        most = max(1, _LOGITS_AT_ONCE // self.network.config.vocab_size)
        for begin in range(0, len(writers), most):
            rows: list[Row] = []
            able: list[int] = []
            for index, sequence in enumerate(writers[begin : begin + most], begin):
                try:
                    rows.append(sequence.row())
                    able.append(index)
                except ValueError as error:  # a grammar that got stuck must not end the others
                    events.append(self._end(sequence, Event(sequence.id, None, 0.0, finish="error", error=str(error))))
            if not rows:
                continue
            some = hidden if len(able) == len(writers) else hidden[able]
            drawn = sample(self.network.logits(some), rows)
            said = zip(drawn.tokens, drawn.log_probs, drawn.top, drawn.asked, strict=True)
            for index, numbers in zip(able, said, strict=True):
                events.append(self._take(writers[index], *numbers))
        return events

    def _take(
        self, sequence: Sequence, token: int, log_prob: float, top: tuple[tuple[int, float], ...],
        asked: tuple[float, ...],
    ) -> Event:  # fmt: skip
        try:
            text, finish, stop = sequence.take(token)
        except ValueError as error:
            return self._end(sequence, Event(sequence.id, token, log_prob, finish="error", error=str(error)))
        event = Event(sequence.id, token, log_prob, top, asked, text, finish, stop)
        return event if finish is None else self._end(sequence, event)

    def _end(self, sequence: Sequence, event: Event) -> Event:
        self._scheduler.remove(sequence)
        del self._sequences[sequence.id]
        return event

    def _start_grammar(self, tokenizer: "Tokenizer", request: Request) -> "Grammar":
        if self._grammars is None:
            from model.generation.grammar import Grammars  # reads the vocabulary; few engines need it

            self._grammars = Grammars(tokenizer, self.network.config.vocab_size)
        return self._grammars.start(request)


class _Rate:
    """Counts, and how many came a second lately."""

    def __init__(self) -> None:
        self.total = 0
        self._recent: deque[tuple[float, int]] = deque()

    def count(self, number: int) -> None:
        self.total += number
        self._recent.append((time.monotonic(), number))
        self._forget()

    def recent(self) -> float:
        self._forget()
        if not self._recent:
            return 0.0
        seconds = time.monotonic() - self._recent[0][0]
        return sum(number for _, number in self._recent) / max(seconds, 1e-3)

    def _forget(self) -> None:
        while self._recent and time.monotonic() - self._recent[0][0] > _RATE_SECONDS:
            self._recent.popleft()
