"""The contract of a factory: candidates, verdicts with a reason and evidence."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from components.sft.problems import Message


@dataclass(frozen=True)
class Candidate:
    """A conversation up to the user's last turn, a response to it, and what its check may look at.

    ``facts`` is JSON-able and never holds the response's own claims about itself. Its ``source``, where there is one,
    names what several candidates are made from. ``planted`` names the error that was built in on purpose; no check
    reads it.
    """

    task: str
    messages: list[Message]
    response: str
    answer: Any = None
    facts: dict[str, Any] = field(default_factory=dict)
    planted: str = ""

    @property
    def source(self) -> str:
        """What the candidate is made from: no two of different sources share their content."""
        return self.facts.get("source") or self.messages[-1]["content"]


@dataclass(frozen=True)
class Verdict:
    """``reason`` is empty for what is accepted; ``evidence`` says what was looked at, kept with the record."""

    reason: str
    evidence: dict[str, Any]

    @property
    def accepted(self) -> bool:
        return not self.reason


Writer = Callable[[random.Random, float], Iterator[Candidate]]
"""``write(rng, planted_share)``: endless candidates, of which a share is wrong on purpose."""
Check = Callable[[Sequence[Candidate]], list[Verdict]]


@dataclass(frozen=True)
class Factory:
    """``number`` is its place in the report's list."""

    number: int
    name: str
    write: Writer
    check: Check


def accept(**evidence: Any) -> Verdict:
    return Verdict("", evidence)


def reject(reason: str, **evidence: Any) -> Verdict:
    return Verdict(reason, evidence)


def one_by_one(check: Callable[[Candidate], Verdict]) -> Check:
    """A check of many from a check of one."""
    return lambda candidates: [check(candidate) for candidate in candidates]
