"""From judged answers to preference pairs: pure functions, no model."""

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from statistics import median
from typing import Literal

from components.preference.pair_store import Pair
from components.sft.conversation_store import Conversation
from components.sft.problems import Verdict
from components.sft.tasks import verify


@dataclass(frozen=True)
class Judged:
    """An answer with its length in tokens, whether the model ended it, and the verifier's verdict."""

    text: str
    tokens: int
    finished: bool
    correct: bool
    format: bool

    @property
    def score(self) -> float:
        """1 right, 0.5 well-formed but wrong, 0 in a wrong form."""
        return (self.format + self.correct) / 2


def heldout(prompt_id: str, share: float) -> bool:
    """Whether all pairs of a prompt are held out: a pure function of its id."""
    return int(hashlib.sha256(prompt_id.encode()).hexdigest()[:8], 16) < share * 2**32


def pairs_of_prompt(
    conversation: Conversation, answers: list[Judged], *, limit: int, heldout_share: float, graded: bool = False
) -> list[Pair]:
    """At most ``limit`` pairs of distinct answers, each right one with the wrong one nearest in length.

    Nearness in length keeps length from telling chosen and rejected apart. With ``graded``, a well-formed wrong
    answer also wins against a misformatted one.
    """
    distinct = list({answer.text: answer for answer in reversed(answers)}.values())[::-1]
    candidates = [
        (abs(better.tokens - worse.tokens), i, j)
        for i, better in enumerate(distinct)
        for j, worse in enumerate(distinct)
        if better.score > worse.score and (better.correct or graded)
    ]
    split: Literal["train", "heldout"] = "heldout" if heldout(conversation.id, heldout_share) else "train"
    pairs: list[Pair] = []
    used_chosen: set[int] = set()
    used_rejected: set[int] = set()
    for _, i, j in sorted(candidates):
        # An answer may win or lose several pairs only when there is no fresh one left.
        if len(pairs) == limit or (i in used_chosen and j in used_rejected):
            continue
        used_chosen.add(i)
        used_rejected.add(j)
        pairs.append(
            Pair(
                f"{conversation.id}-{len(pairs)}", split, conversation.task, conversation.prompt,
                distinct[i].text, distinct[j].text, distinct[i].score, distinct[j].score,
            )
        )  # fmt: skip
    return pairs


def review(pair: Pair, conversation: Conversation, longest: int) -> str | None:
    """Second, automated review of a pair as it will be stored: why it must go, or None.

    It knows nothing of the first verdicts: it verifies both texts again and looks at what a verifier does not,
    length and repetition.
    """
    key = (conversation.task, conversation.answer)
    chosen, rejected = verify(key, pair.chosen), verify(key, pair.rejected)
    if _score(chosen) <= _score(rejected):
        return "order"
    if len(pair.chosen) > longest:
        return "length"
    lines = pair.chosen.split("\n")
    if len(lines) != len(set(lines)):
        return "repetition"
    return None


def _score(verdict: Verdict) -> float:
    return (verdict.format + verdict.correct) / 2


def balance(pairs: list[Pair], ratio: float) -> list[Pair]:
    """Keep at most ``ratio`` times the median family's number of pairs of any family, evenly over its prompts."""
    by_task: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        by_task[pair.task].append(pair)
    if not by_task:
        return []
    cap = max(1, round(ratio * median(len(members) for members in by_task.values())))
    kept = []
    for _, members in sorted(by_task.items()):
        count = min(cap, len(members))
        kept += [members[i * len(members) // count] for i in range(count)]
    return kept
