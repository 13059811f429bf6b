"""Pairs for each of the six criteria (report, section 4.3), made so that the better answer is known.

A sentence of a real document is asked about; a good answer is written from it, and the other answer is the same or
another one with a single fault: a wrong word, no answer, padding, another text's answer, harm, prejudice. Every pair
of a criterion has a sentence of its own, so they are independent.
"""

import hashlib
import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, NamedTuple

from components.data.documents import Document
from components.preference import criterion_wordings as words
from components.preference.pair_store import Pair
from components.sft.problems import Message, user
from components.stage import StageError

Part = Literal["train", "fit", "heldout"]
"""``train``: the heads; ``fit``: their combination and temperatures; ``heldout``: what is reported."""


@dataclass(frozen=True)
class Passage:
    """One real sentence with a word that is asked for: ``gap`` follows the words ``before``, and stands there once."""

    id: str
    text: str
    before: str
    gap: str


@dataclass(frozen=True)
class CriterionPair:
    """A pair whose ``task`` is its criterion, the fault of the rejected answer, whether its wordings are held out."""

    pair: Pair
    fault: str
    part: Part
    unseen: bool


class Draft(NamedTuple):
    """What a criterion writes."""

    messages: list[Message]
    chosen: str
    rejected: str
    fault: str


@dataclass(frozen=True)
class Draw:
    """What drafts are written from."""

    passage: Passage
    other: Passage
    """From elsewhere."""
    rng: random.Random
    heldout: bool
    """People, groups and things of which only held-out pairs speak."""
    unseen: bool
    """Wordings that only held-out pairs use."""

    def say(self, pool: words.Pool, **values: str) -> str:
        """One of the pool's wordings with its places filled."""
        return pool.draw(self.rng, self.unseen).format(**values)

    @property
    def question(self) -> list[Message]:
        """About the passage."""
        return user(f"{self.passage.text}\n{self.say(words.QUESTIONS, before=self.passage.before)}")

    def answer(self, passage: Passage | None = None) -> str:
        """A right answer to the question about ``passage``, this one by default."""
        about = passage or self.passage
        return self.say(words.ANSWERS, before=about.before, gap=about.gap)


def truthfulness(draw: Draw) -> Draft:
    """The same sentence with a wrong word in it: one of the passage, or one of another passage."""
    passage = draw.passage
    near = [w for w in _PLAIN.findall(passage.text) if w.lower() not in f"{passage.before} {passage.gap}".lower()]
    fault, wrong = ("a word of the text", draw.rng.choice(near)) if draw.rng.random() < 0.5 else (
        "a word from elsewhere", draw.other.gap
    )  # fmt: skip
    answer = draw.say(words.ANSWERS, before=passage.before, gap="{gap}")
    return Draft(draw.question, answer.format(gap=passage.gap), answer.format(gap=wrong), fault)


def helpfulness(draw: Draw) -> Draft:
    """No answer at all: a refusal, or words that go around it."""
    fault, pool = draw.rng.choice((("refusal", words.REFUSALS), ("evasion", words.EVASIONS)))
    return Draft(draw.question, draw.answer(), draw.say(pool), fault)


def conciseness(draw: Draw) -> Draft:
    """The same answer, padded: with words after it, the question before it, or itself once more."""
    answer, fault = draw.answer(), draw.rng.choice(("padding", "question restated", "said twice"))
    if fault == "padding":
        rejected = f"{answer} {draw.say(words.PADDING)}"
    elif fault == "question restated":
        rejected = f"{draw.say(words.RESTATED, before=draw.passage.before)} {answer}"
    else:
        rejected = f"{answer} {draw.answer()} {draw.answer()}"
    return Draft(draw.question, answer, rejected, fault)


def relevance(draw: Draw) -> Draft:
    """What would be right for another passage: a quotation of it, or the answer to the question about it."""
    if draw.rng.random() < 0.5:
        how = draw.say(words.QUOTES, quote="{quote}")
        chosen, rejected = (how.format(quote=_quote(p.text, draw.rng)) for p in (draw.passage, draw.other))
        messages = user(f"{draw.passage.text}\n{draw.say(words.QUOTE_REQUESTS)}")
        return Draft(messages, chosen, rejected, "quotes another text")
    how = draw.say(words.ANSWERS, before="{before}", gap="{gap}")
    if "before" not in how:  # a bare word does not say which question it answers
        how = f"'{{before}}' is followed by {how}"
    chosen, rejected = (how.format(before=p.before, gap=p.gap) for p in (draw.passage, draw.other))
    return Draft(draw.question, chosen, rejected, "answers another question")


def harmlessness(draw: Draw) -> Draft:
    """Help with harm, perhaps after a word of warning; or a right answer with an insult behind it."""
    fault = draw.rng.choice(("compliance", "compliance after a warning", "insult"))
    if fault == "insult":
        answer = draw.answer()
        return Draft(draw.question, f"{answer} {draw.say(words.REMARKS)}", f"{answer} {draw.say(words.INSULTS)}", fault)
    thing, victim = draw.rng.choice(words.THINGS[draw.heldout]), draw.rng.choice(words.VICTIMS[draw.heldout])
    harm = f"{draw.rng.choice(words.DEEDS)} {thing} of {victim}"
    messages = user(draw.say(words.HARM_REQUESTS, harm=harm))
    rejected = draw.say(words.COMPLIANCE)
    if fault != "compliance":
        rejected = draw.say(words.DISCLAIMED, compliance=rejected)
    return Draft(messages, draw.say(words.SAFE_REPLIES), rejected, fault)


def debiasing(draw: Draw) -> Draft:
    """In the form of BBQ (Parrish et al. 2022, arXiv 2110.08193): who failed, where the text leaves it open and where
    it does not; or a right answer with a prejudice behind it."""
    rng = draw.rng
    suspect, other = rng.choice(words.GROUPS[draw.heldout])
    if rng.random() < 0.25:
        answer = draw.answer()
        remark, prejudice = draw.say(words.REMARKS), draw.say(words.PREJUDICES, who=suspect)
        return Draft(draw.question, f"{answer} {remark}", f"{answer} {prejudice}", "prejudice added")
    failure, place = draw.say(words.FAILURES), rng.choice(words.PLACES)
    both = [f"the {suspect}", f"the {other}"]
    rng.shuffle(both)
    scene = f"{both[0].capitalize()} and {both[1]} were at the {place}."
    fault = rng.choice(("guessed where it is open", "prejudice against the text", "undecided against the text"))
    accused = draw.say(words.ACCUSED, who="{who}", failure=failure)
    undecided = draw.say(words.UNDECIDED, failure=failure)
    if fault == "guessed where it is open":
        told = f"{scene} One of them {failure}."
        chosen, rejected = undecided, accused.format(who=suspect)
    else:
        told = f"{scene} The {other} {failure}."
        chosen = accused.format(who=other)
        rejected = accused.format(who=suspect) if fault.startswith("prejudice") else undecided
    return Draft(user(f"{told} Who {failure}?"), chosen, rejected, fault)


CRITERIA: dict[str, Callable[[Draw], Draft]] = {
    "truthfulness": truthfulness, "helpfulness": helpfulness, "conciseness": conciseness, "relevance": relevance,
    "harmlessness": harmlessness, "debiasing": debiasing,
}  # fmt: skip


def criterion_pairs(
    passages: Sequence[Passage], counts: dict[Part, int], seed: int, *, unseen_share: float = 0.5
) -> list[CriterionPair]:
    """``counts`` pairs of each criterion and part, each from a passage of its own; StageError where there are too few.

    The parts share no passage, and held-out pairs no group of people and no harm with the others; ``unseen_share`` of
    them use wordings that nothing else has.
    """
    needed = sum(counts.values())
    if len(passages) < needed:
        raise StageError(f"{needed} sentences are needed for pairs, the documents have {len(passages)}; ask for fewer")
    order = list(passages)
    random.Random(f"{seed}-passages").shuffle(order)
    fresh = iter(order)
    of_part = {part: list(islice(fresh, count)) for part, count in counts.items()}
    found = []
    for name, write in CRITERIA.items():
        for part, members in of_part.items():
            for index, passage in enumerate(members):
                rng = random.Random(f"{seed}-{name}-{passage.id}")
                other = _unlike(passage, members, rng)
                unseen = part == "heldout" and index < unseen_share * len(members)
                draft = write(Draw(passage, other, rng, part == "heldout", unseen))
                split: Literal["train", "heldout"] = "heldout" if part == "heldout" else "train"
                pair = Pair(
                    f"{name}-{passage.id}-0", split, name, draft.messages, draft.chosen, draft.rejected, 1.0, 0.0,
                    "corrupted",
                )  # fmt: skip
                found.append(CriterionPair(pair, draft.fault, part, unseen))
    return found


_SENTENCE = re.compile(r"(?:(?<=[.!?]\s)|^)[A-Z][A-Za-z0-9 ,;:()%'\"-]{38,138}[.!?](?=\s|$)", re.MULTILINE)
_PLAIN = re.compile(r"[A-Za-z]{3,}")
_WORDINGS = " ".join(
    text for pool in (words.ANSWERS, words.EVASIONS, words.REFUSALS) for text in (*pool.seen, *pool.unseen)
)
_SAID_ANYWAY = {word.lower() for word in _PLAIN.findall(_WORDINGS)}
"""Words that stand in answers whatever is asked."""


def passages_of(documents: Iterable[Document], *, limit: int) -> list[Passage]:
    """Up to ``limit`` English sentences of 40 to 140 characters, each with a word to ask for. None occurs twice."""
    return list(islice(_passages(documents), limit))


def _passages(documents: Iterable[Document]) -> Iterator[Passage]:
    seen: set[str] = set()
    for document in documents:
        if document.language != "en" or document.domain.startswith("synthetic"):
            continue
        for match in _SENTENCE.finditer(document.text):
            text = match.group()
            if (passage := passage_of(text)) and text not in seen:
                seen.add(text)
                yield passage


def passage_of(text: str) -> Passage | None:
    """A word of the sentence that can be asked for, the same for equal sentences; None where there is none."""
    tokens = [token.strip(",;.") for token in text.split()]
    lowered = [token.lower() for token in tokens]
    places = [
        i for i in range(2, len(tokens))
        if _PLAIN.fullmatch(tokens[i]) and lowered[i] not in _SAID_ANYWAY and lowered.count(lowered[i]) == 1
        and text.count(" ".join(tokens[i - 2 : i])) == 1
    ]  # fmt: skip
    if len(places) < 3 or len({w for w in lowered if len(w) > 2}) < 6:
        return None
    identifier = hashlib.sha256(text.encode()).hexdigest()[:12]
    i = random.Random(identifier).choice(places)
    return Passage(identifier, text, " ".join(tokens[i - 2 : i]), tokens[i])


def _quote(text: str, rng: random.Random) -> str:
    """Five words in a row."""
    tokens = text.rstrip(".").split()
    start = rng.randrange(max(1, len(tokens) - 5))
    return " ".join(tokens[start : start + 5])


def _unlike(passage: Passage, others: Sequence[Passage], rng: random.Random) -> Passage:
    """Another passage whose answer could not do for this one."""
    for _ in range(1_000):
        other = rng.choice(others)
        asked = f"{other.before} {other.gap}".lower()
        if other.gap.lower() not in passage.text.lower() and passage.gap.lower() not in asked:
            return other
    raise StageError("the documents' sentences are too much alike to make pairs of them")
