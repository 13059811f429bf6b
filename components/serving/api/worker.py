"""One thread that owns one engine. Coroutines hand it requests and receive its events; nobody else touches the engine.

``open`` counts answers that were taken and have not ended. It is the event loop's number, so a full queue is known
before anything is handed over.
"""

import asyncio
import logging
import math
import queue
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, time

from model.generation.engine import Engine, Statistics
from model.generation.request import Event, Request
from model.tokenizer import Tokenizer

log = logging.getLogger(__name__)
_RETRY_SECONDS = (1, 60)


class Refused(Exception):
    """The engine cannot answer this request; says why."""


class Full(Exception):
    """More is asked for than there is room to queue."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"the queue is full: try again in {retry_after} s")
        self.retry_after = retry_after


class Broken(Exception):
    """The engine's thread has died of an error; the log has it."""


@dataclass(eq=False)
class Answers:
    """The answers to one call, as they are written."""

    worker: "Worker"
    number: int
    events: "asyncio.Queue[tuple[int, Event] | Exception]" = field(default_factory=asyncio.Queue)
    ids: list[int] = field(default_factory=list)
    """Of the engine; its thread's."""
    left: int = 0
    started: float = field(default_factory=monotonic)

    async def __aiter__(self) -> AsyncIterator[tuple[int, Event]]:
        """(number of the answer, event) until all of them have ended; Broken where the engine dies."""
        while self.left:
            item = await self.events.get()
            if isinstance(item, Exception):
                raise item
            if item[1].finish is not None:
                self.left -= 1
                self.worker.ended(self)
            yield item

    def close(self) -> None:
        """Nobody waits for these any more: what is still being written is cancelled, and its pages are free."""
        if self.left:
            self.worker.cancel(self)


class Worker:
    """``start`` it inside a running event loop; ``stop`` lets it finish what it has taken."""

    def __init__(
        self, name: str, digest: str, engine: Engine, tokenizer: Tokenizer, *, max_running: int, max_queue: int,
    ) -> None:  # fmt: skip
        """``max_running``: answers that the engine writes at once; ``max_queue``: how many more may wait."""
        self.name, self.digest, self.tokenizer = name, digest, tokenizer
        self.context, self.max_open = engine.context, max_running + max_queue
        self.open = 0
        self.created = int(time())
        self.dead = False
        self.statistics: Statistics = engine.statistics()
        """As of the last step."""
        self._engine, self._running = engine, max_running
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._owners: dict[int, tuple[Answers, int]] = {}
        self._seconds = 1.0  # of an answer, lately
        self._thread = threading.Thread(target=self._run, name=f"engine-{digest[:12]}", daemon=True)

    @classmethod
    def load(cls, name: str, digest: str, folder: Path, device: str, *, max_running: int, max_queue: int) -> "Worker":
        """Read a checkpoint; ModelFormatError where it cannot be."""
        from model.checkpoint import load_model

        tokenizer = Tokenizer.load(folder)
        engine = Engine(load_model(folder, device=device).eval(), tokenizer, max_running=max_running)
        return cls(name, digest, engine, tokenizer, max_running=max_running, max_queue=max_queue)

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """End the thread once everything that it has taken is answered."""
        self._inbox.put(None)

    # ---- the event loop's side --------------------------------------------------------------------------

    async def ask(self, requests: Sequence[Request]) -> Answers:
        """Queue requests together. Refused, Full or Broken where they are not taken."""
        if self.dead:
            raise Broken(f"the engine of {self.name} has stopped")
        if len(requests) > self.max_open:
            raise Refused(f"{len(requests)} answers are asked for, at most {self.max_open} fit the queue")
        if self.open + len(requests) > self.max_open:
            waiting = self.open - self._running + len(requests)
            least, most = _RETRY_SECONDS
            raise Full(min(max(math.ceil(self._seconds * waiting / self._running), least), most))
        answers = Answers(self, len(requests), left=len(requests))
        self.open += answers.left
        taken: asyncio.Future[None] = self._loop.create_future()
        self._inbox.put(lambda: self._add(answers, requests, taken))
        try:
            await taken
        except (ValueError, asyncio.CancelledError) as error:
            self.cancel(answers)
            if isinstance(error, ValueError):
                raise Refused(str(error)) from None
            raise
        return answers

    def ended(self, answers: Answers) -> None:
        self.open -= 1
        self._seconds += 0.1 * (monotonic() - answers.started - self._seconds)

    def cancel(self, answers: Answers) -> None:
        self.open -= answers.left
        answers.left = 0
        self._inbox.put(lambda: self._forget(answers))

    # ---- the thread's side ------------------------------------------------------------------------------

    def _run(self) -> None:
        stopping = False
        try:
            while not stopping or self._engine.busy:
                try:
                    while True:
                        order = self._inbox.get(block=not self._engine.busy and not stopping)
                        if order is None:
                            stopping = True
                        else:
                            order()
                            self.statistics = self._engine.statistics()
                except queue.Empty:
                    pass
                self._deliver(self._engine.step())
        except Exception:
            log.exception("the engine of %s has stopped", self.name)
            self.dead = True
            self._loop.call_soon_threadsafe(self._break)
            while (order := self._inbox.get()) is not None:  # whoever asked before knowing is told as well
                order()

    def _add(self, answers: Answers, requests: Sequence[Request], taken: "asyncio.Future[None]") -> None:
        error: Exception | None = None
        try:
            if self.dead:
                raise ValueError(f"the engine of {self.name} has stopped")
            for index, request in enumerate(requests):
                id = self._engine.add(request)
                answers.ids.append(id)
                self._owners[id] = (answers, index)
        except Exception as problem:  # of this request: a hostile schema must not end the others
            self._forget(answers)
            error = problem if isinstance(problem, ValueError) else ValueError(f"{type(problem).__name__}: {problem}")
        self._loop.call_soon_threadsafe(_settle, taken, error)

    def _forget(self, answers: Answers) -> None:
        for id in answers.ids:
            if self._owners.pop(id, None) is not None and not self.dead:
                self._engine.cancel(id)

    def _deliver(self, events: list[Event]) -> None:
        self.statistics = self._engine.statistics()
        if not events:
            return
        batch = []
        for event in events:
            owner = self._owners[event.id] if event.finish is None else self._owners.pop(event.id)
            batch.append((*owner, event))
        # one wake-up of the loop a step, however many answers there are
        self._loop.call_soon_threadsafe(_hand_out, batch)

    def _break(self) -> None:
        for answers in {answers for answers, _ in self._owners.values()}:
            answers.events.put_nowait(Broken(f"the engine of {self.name} has stopped"))


def _settle(taken: "asyncio.Future[None]", error: Exception | None) -> None:
    if not taken.done():
        if error is None:
            taken.set_result(None)
        else:
            taken.set_exception(error)


def _hand_out(batch: list[tuple[Answers, int, Event]]) -> None:
    for answers, index, event in batch:
        answers.events.put_nowait((index, event))
