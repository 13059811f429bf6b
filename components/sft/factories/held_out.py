"""Held-out prompts of a factory: made from other sources than its records, and answers to them judged by its check."""

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from components.sft.conversation_store import Conversation, Split
from components.sft.factories.factory import Candidate, Factory
from components.stage import StageError

if TYPE_CHECKING:
    from components.sft.sampling import Answer

BATCH = 50
"""Candidates that are checked at a time."""
MOST_DRAWN = 40
"""Candidates for each prompt that is wanted, after which a factory counts as exhausted."""


def accepted(factory: Factory, rng: random.Random) -> Iterator[Candidate]:
    """Candidates of which none is wrong on purpose, as far as the check accepts them; without an end."""
    candidates = factory.write(rng, 0.0)
    while True:
        batch = list(islice(candidates, BATCH))
        for candidate, verdict in zip(batch, factory.check(batch), strict=True):
            if verdict.accepted:
                yield candidate


def hold_out(
    factory: Factory, candidates: Iterator[Candidate], count: int, fits: Callable[[Candidate], bool] = lambda c: True
) -> list[Conversation]:  # fmt: skip
    """The first ``count`` of different sources that ``fits`` lets through, in split ``heldout`` with their responses.

    StageError where the factory has not so many.
    """
    found: dict[str, Candidate] = {}
    for candidate in islice(candidates, MOST_DRAWN * (count + BATCH)):
        if len(found) == count:
            break
        if candidate.source not in found and fits(candidate):
            found[candidate.source] = candidate
    if len(found) < count:
        raise StageError(
            f"factory {factory.name}: {len(found)} sources that fit are all that it has, {count} are to be held out"
        )
    return [record("heldout", factory, candidate, index) for index, candidate in enumerate(found.values())]


def record(split: Split, factory: Factory, candidate: Candidate, index: int) -> Conversation:
    """With everything that its check looks at."""
    messages = [*candidate.messages, {"role": "assistant", "content": candidate.response}]
    meta = {"factory": factory.name, "task": candidate.task, "facts": candidate.facts}
    return Conversation(
        f"{split}-{factory.name}-{index:06d}", split, factory.name, messages, candidate.answer, meta
    )  # fmt: skip


def answered(conversation: Conversation, response: str) -> Candidate:
    """The candidate that a record was, with another response."""
    meta = conversation.meta
    return Candidate(meta["task"], conversation.prompt, response, conversation.answer, meta["facts"])


def reasons(factory: Factory, asked: Sequence[Conversation], answers: "Sequence[Answer]") -> list[str]:
    """Why the factory's check rejects each answer; "" where it accepts. One without an end has failed."""
    verdicts = factory.check([answered(c, a.text) for c, a in zip(asked, answers, strict=True)])
    return [v.reason if a.finished else "goes on" for v, a in zip(verdicts, answers, strict=True)]
