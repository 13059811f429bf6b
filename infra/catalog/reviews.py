"""``Reviews``: the queue of preference pairs that people judge, and their verdicts.

A pair is known by the content of its prompt and its two answers, so the same pair of another run is the same item.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from infra.catalog.database import Database
from infra.catalog.models import Review, ReviewItem
from infra.errors import InfraError
from infra.manifest import now

Verdict = Literal["a", "b", "tie", "bad"]
"""The better answer; ``tie``: equally good; ``bad``: neither should be learnt from."""
CRITERIA = ("truthfulness", "helpfulness", "conciseness", "relevance", "harmlessness", "debiasing")
"""Of the report's reward model (section 4.3)."""
SHARED = "33"  # keys are hexadecimal: a fifth of them lie below
"""Pairs whose key is below are shown first to everybody, so that agreement can be measured early."""


@dataclass(frozen=True)
class Judged:
    """A pair that somebody has reviewed, and every labeller's review of it."""

    item: ReviewItem
    reviews: list[Review]

    @property
    def votes(self) -> Counter[str]:
        return Counter(review.verdict for review in self.reviews)

    @property
    def verdict(self) -> Verdict | None:
        """What more labellers say than anything else; None while they are divided."""
        (first, most), *others = self.votes.most_common()
        return None if others and others[0][1] == most else first  # type: ignore[return-value]

    def criterion(self, name: str) -> str | None:
        """Likewise for one criterion: a, b, tie, or None where nobody or nobody in particular said it."""
        votes = Counter(r.criteria[name] for r in self.reviews if name in r.criteria).most_common()
        return votes[0][0] if votes and (len(votes) == 1 or votes[0][1] > votes[1][1]) else None


def item_of(pair: Mapping[str, Any], source: str) -> ReviewItem:
    """A queue item from a pair's ``id, split, task, messages, chosen, rejected`` and both scores.

    The answers are put into an order that depends on their texts alone: it cannot betray which one was chosen.
    """
    sides = sorted(
        ((pair["chosen"], pair["chosen_score"], True), (pair["rejected"], pair["rejected_score"], False)),
        key=lambda side: hashlib.sha256(side[0].encode()).digest(),
    )
    (a, score_a, a_chosen), (b, score_b, _) = sides
    messages = list(pair["messages"])
    content = json.dumps([messages, a, b], ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return ReviewItem(
        key=hashlib.sha256(content.encode()).hexdigest(), pair_id=pair["id"], task=pair["task"], split=pair["split"],
        messages=messages, answer_a=a, answer_b=b, automated="a" if a_chosen else "b", score_a=score_a,
        score_b=score_b, source=source, queued_at=now(),
    )  # fmt: skip


def shown_swapped(key: str, labeller: str) -> bool:
    """Whether this labeller sees answer b first: a coin of its own for every pair and labeller, the same each time."""
    return hashlib.sha256(f"{key}/{labeller}".encode()).digest()[0] % 2 == 1


class Reviews(Database):
    """The review queue of a catalog."""

    def queue(self, items: Iterable[ReviewItem]) -> int:
        """Add items; those that are there already stay as they are. Returns how many are new."""
        fresh = {item.key: item for item in items}

        def work(session: Session) -> int:
            known = session.scalars(select(ReviewItem.key).where(ReviewItem.key.in_(fresh))).all()
            new = [item for key, item in fresh.items() if key not in known]
            for item in new:
                session.merge(item)
            return len(new)

        return self._write(work)

    def next_for(self, labeller: str) -> ReviewItem | None:
        """The item that this labeller should judge next: shared ones first, then those that fewest have judged."""
        counts = select(Review.key, func.count().label("n")).group_by(Review.key).subquery()
        own = select(Review.key).where(Review.labeller == labeller)
        query = (
            select(ReviewItem)
            .outerjoin(counts, counts.c.key == ReviewItem.key)
            .where(ReviewItem.key.not_in(own))
            .order_by(ReviewItem.key >= SHARED, func.coalesce(counts.c.n, 0), ReviewItem.key)
            .limit(1)
        )
        return self._read(lambda session: session.scalars(query).first())

    def submit(
        self, key: str, labeller: str, verdict: Verdict, *, seconds: float, swapped: bool = False,
        criteria: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        """Enter a verdict; a later one of the same labeller takes its place."""
        if verdict not in get_args(Verdict):
            raise InfraError(f"no verdict {verdict!r}; there are {', '.join(get_args(Verdict))}")
        for name, better in (criteria or {}).items():
            if name not in CRITERIA or better not in ("a", "b", "tie"):
                raise InfraError(f"no criterion {name}={better}; there are {', '.join(CRITERIA)}, each a, b or tie")

        def work(session: Session) -> None:
            self._one(session, ReviewItem, key, "pair in the review queue")
            mine = session.scalars(select(Review).where(Review.key == key, Review.labeller == labeller)).one_or_none()
            row = mine or Review(key=key, labeller=labeller)
            row.verdict, row.criteria, row.swapped = verdict, dict(criteria or {}), swapped
            row.seconds, row.created_at = seconds, now()
            session.add(row)

        self._write(work)

    def undo(self, labeller: str) -> str | None:
        """Take back this labeller's latest verdict; returns the pair's key, or None where there is none."""

        def work(session: Session) -> str | None:
            mine = select(Review).where(Review.labeller == labeller)
            latest = session.scalars(mine.order_by(Review.created_at.desc(), Review.id.desc()).limit(1)).first()
            if latest is None:
                return None
            session.delete(latest)
            return latest.key

        return self._write(work)

    def counts(self, labeller: str = "") -> tuple[int, int, int]:
        """Pairs in the queue, those with a verdict of anybody, and those that ``labeller`` has judged."""

        def work(session: Session) -> tuple[int, int, int]:
            items = session.scalar(select(func.count()).select_from(ReviewItem))
            judged = session.scalar(select(func.count(Review.key.distinct())))
            own = session.scalar(select(func.count()).where(Review.labeller == labeller))
            return items or 0, judged or 0, own or 0

        return self._read(work)

    def judged(self) -> Sequence[Judged]:
        """Every pair with a verdict, in the order of keys."""

        def work(session: Session) -> list[Judged]:
            by_key: dict[str, list[Review]] = defaultdict(list)
            for review in session.scalars(select(Review).order_by(Review.key, Review.labeller)):
                by_key[review.key].append(review)
            items = session.scalars(
                select(ReviewItem).where(ReviewItem.key.in_(select(Review.key))).order_by(ReviewItem.key)
            )
            return [Judged(item, by_key[item.key]) for item in items]

        return self._read(work)


__all__ = ["CRITERIA", "Judged", "Reviews", "Verdict", "item_of", "shown_swapped"]
