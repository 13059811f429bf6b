"""Human verdicts on preference pairs, which override the automated ones (report, section 4.3: human labels).

A file of JSON lines, one a pair: ``id, split, task, messages, a, b, verdict`` and ``criteria``; ``verdict`` is ``a`` or
``b`` (the better answer), ``tie`` or ``bad`` (neither teaches anything). ``qwenforge reviews export`` writes it.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from components.preference.pair_store import Pair
from components.sft.problems import Message
from components.stage import StageError

FILE = "reviews.jsonl"


@dataclass(frozen=True)
class HumanVerdict:
    """What people say of two answers ``a`` and ``b`` to one prompt."""

    id: str
    split: Literal["train", "heldout"]
    task: str
    messages: list[Message]
    a: str
    b: str
    verdict: Literal["a", "b", "tie", "bad"]
    criteria: dict[str, str] = field(default_factory=dict)

    @property
    def pair(self) -> Pair:
        """As a pair for training. The scores say that a person has decided, not what a verifier gave."""
        chosen, rejected = (self.a, self.b) if self.verdict == "a" else (self.b, self.a)
        return Pair(self.id, self.split, self.task, self.messages, chosen, rejected, 1.0, 0.0, "human")


def read_reviews(path: Path) -> list[HumanVerdict]:
    """All verdicts of a file, in its order."""
    verdicts = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            verdict = HumanVerdict(**json.loads(line))
            if verdict.verdict not in ("a", "b", "tie", "bad") or verdict.split not in ("train", "heldout"):
                raise ValueError(f"verdict {verdict.verdict!r} in split {verdict.split!r}")
        except (ValueError, TypeError) as error:
            raise StageError(
                f"{path}, line {number}: no review ({error}); write it with qwenforge reviews export"
            ) from None
        verdicts.append(verdict)
    return verdicts


def override(pairs: Iterable[Pair], verdicts: Iterable[HumanVerdict]) -> tuple[list[Pair], Counter[str]]:
    """The pairs as people see them, and how many were ``confirmed``, ``turned`` round, or ``dropped``.

    A pair is the same if its prompt and its two texts are, whichever of them was chosen and whatever its id.
    """
    known = {_content(v.messages, v.a, v.b): v for v in verdicts}
    kept, changes = [], Counter[str]()
    for pair in pairs:
        verdict = known.get(_content(pair.messages, pair.chosen, pair.rejected))
        if verdict is None:
            kept.append(pair)
        elif verdict.verdict not in ("a", "b"):
            changes["dropped"] += 1
        else:
            human = replace(verdict.pair, id=pair.id, split=pair.split)
            changes["confirmed" if human.chosen == pair.chosen else "turned"] += 1
            kept.append(human)
    return kept, changes


def unseen(pairs: Iterable[Pair], verdicts: Iterable[HumanVerdict]) -> list[Pair]:
    """Pairs that people have decided and that are not among ``pairs``: judged on answers of an earlier policy."""
    seen = {_content(pair.messages, pair.chosen, pair.rejected) for pair in pairs}
    decided = [v for v in verdicts if v.verdict in ("a", "b")]
    return [v.pair for v in decided if _content(v.messages, v.a, v.b) not in seen]


def _content(messages: list[Message], one: str, other: str) -> str:
    text = json.dumps([messages, *sorted((one, other))], ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
