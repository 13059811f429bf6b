"""What a writer of synthetic data hands to verification."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Candidate:
    """One written text and the check that decides on it.

    ``correct`` is what the writer knows (``None`` where it does not); only the measurement of the verification
    reads it. ``evidence`` is what the verifier of its kind needs.
    """

    text: str
    family: str
    correct: bool | None
    evidence: dict = field(default_factory=dict)


Writer = Callable[[random.Random], Iterator[Candidate]]
Verifier = Callable[[list[Candidate]], list[str]]
"""Verdict of each candidate: ``accepted``, or why not."""

ACCEPTED = "accepted"
