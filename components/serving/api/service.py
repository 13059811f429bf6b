"""What the routes share: the worker that answers now, the numbers, and whether anything new is taken."""

from collections.abc import Sequence

from components.serving.api.metrics import Metrics
from components.serving.api.worker import Answers, Worker
from model.generation.request import Request


class Draining(Exception):
    """The server finishes what it has begun."""


class Service:
    """What the routes share. ``worker`` is replaced when another checkpoint takes over; answers keep theirs."""

    def __init__(self, worker: Worker, *, max_output: int) -> None:
        self.worker, self.max_output = worker, max_output
        self.metrics = Metrics(lambda: self.worker)
        self.draining = False
        """Nothing new is taken any more."""
        self.answering = 0
        """Calls whose answers are being written."""

    async def ask(self, worker: Worker, requests: Sequence[Request]) -> Answers:
        """Queue the requests of one call, which ``leave`` ends. Draining, Refused, Full or Broken."""
        if self.draining:
            raise Draining("the server is about to end and takes nothing new")
        answers = await worker.ask(requests)
        self.answering += 1
        return answers

    def leave(self, answers: Answers) -> None:
        """The client has all it wanted, or has left."""
        self.answering -= 1
        self.metrics.cancelled.inc(answers.left)
        answers.close()
