"""Judges of a pair of answers: a language model behind an endpoint, asked as Arena-Hard asks, or a reward model."""

import math
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from components.sft.problems import Message

if TYPE_CHECKING:
    from components.preference.reward_scoring import RewardModel
    from components.teacher import Teacher
    from model.tokenizer import Tokenizer

SYSTEM = """\
Please act as an impartial judge and evaluate the quality of the responses provided by two AI assistants to the user \
prompt displayed below. You will be given assistant A's answer and assistant B's answer. Your job is to evaluate which \
assistant's answer is better.

Begin your evaluation by generating your own answer to the prompt. You must provide your answers before judging any \
answers.

When evaluating the assistants' answers, compare both assistants' answers with your answer. You must identify and \
correct any mistakes or inaccurate information.

Then consider if the assistant's answers are helpful, relevant, and concise. Helpful means the answer correctly \
responds to the prompt or follows the instructions. Note when user prompt has any ambiguity or more than one \
interpretation, it is more helpful and appropriate to ask for clarifications or more information from the user than \
providing an answer based on assumptions. Relevant means all parts of the response closely connect or are appropriate \
to what is being asked. Concise means the response is clear and not verbose or excessive.

Then consider the creativity and novelty of the assistant's answers when needed. Finally, identify any missing \
important information in the assistants' answers that would be beneficial to include when responding to the user \
prompt.

After providing your explanation, you must output only one of the following choices as your final verdict with a label:

1. Assistant A is significantly better: [[A>>B]]
2. Assistant A is slightly better: [[A>B]]
3. Tie, relatively the same: [[A=B]]
4. Assistant B is slightly better: [[B>A]]
5. Assistant B is significantly better: [[B>>A]]

Example output: "My final verdict is tie: [[A=B]]"."""
"""Arena-Hard's own words."""
ASKED = """\
<|User Prompt|>
{question}

<|The Start of Assistant A's Answer|>
{first}
<|The End of Assistant A's Answer|>

<|The Start of Assistant B's Answer|>
{second}
<|The End of Assistant B's Answer|>"""
LABELS = {"A>>B": 2, "A>B": 1, "A=B": 0, "B=A": 0, "B>A": -1, "B>>A": -2, "A<B": -1, "A<<B": -2, "B<A": 1, "B<<A": 2}
"""Verdict -> how much better A is."""
MARKED = re.compile(r"\[\[([AB<>=]+)\]\]")
LONGEST = 4_096
"""Tokens of a judgment, as Arena-Hard allows them."""
MUCH = 3.0
"""Odds from which a reward model's preference counts as significant: three to one."""


@dataclass(frozen=True)
class Duel:
    """One question with two answers to it, neither of which says whose it is."""

    question: str
    first: str
    second: str

    def swapped(self) -> "Duel":
        return Duel(self.question, self.second, self.first)


class Judge(Protocol):
    def __call__(self, duels: Sequence[Duel], advance: Callable[[int], None]) -> list[int | None]:
        """How much better the first answer is, from -2 to 2, or None where the judge said nothing of use."""
        ...


class EndpointJudge:
    """Any OpenAI-compatible model. What it has judged is kept by ``teacher``, so that a killed command asks it once."""

    def __init__(self, teacher: "Teacher", concurrency: int = 16) -> None:
        self.teacher, self.concurrency = teacher, concurrency

    def __call__(self, duels: Sequence[Duel], advance: Callable[[int], None] = lambda done: None) -> list[int | None]:
        def ask(duel: Duel) -> int | None:
            asked = ASKED.format(question=duel.question, first=duel.first, second=duel.second)
            messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": asked}]
            verdict = read_verdict(self.teacher.complete(messages, max_tokens=LONGEST))
            advance(1)
            return verdict

        with ThreadPoolExecutor(self.concurrency) as pool:
            return list(pool.map(ask, duels))


class RewardJudge:
    """A reward model of ours: which of two answers scores higher, and whether by much."""

    def __init__(self, model: "RewardModel", tokenizer: "Tokenizer") -> None:
        self.model, self.tokenizer = model, tokenizer

    def __call__(self, duels: Sequence[Duel], advance: Callable[[int], None] = lambda done: None) -> list[int | None]:
        from components.preference.reward_scoring import score

        def scored(duel: Duel, answer: str) -> list[Message]:
            return [{"role": "user", "content": duel.question}, {"role": "assistant", "content": answer}]

        both = [scored(duel, answer) for duel in duels for answer in (duel.first, duel.second)]
        values = score(self.model, self.tokenizer, both)
        advance(len(duels))
        # Scores are divided by their deviation; the model itself was trained on the odds of what it said before that.
        gaps = [(a - b) * self.model.std for a, b in zip(values[::2], values[1::2], strict=True)]
        return [graded(gap) for gap in gaps]


def graded(gap: float) -> int:
    """Log odds that the first answer is better, as a verdict."""
    if gap == 0:
        return 0
    return int(math.copysign(2 if abs(gap) > math.log(MUCH) else 1, gap))


def read_verdict(judgment: str) -> int | None:
    """The last label in double brackets; None where there is none."""
    found = [LABELS[label] for label in MARKED.findall(judgment.upper()) if label in LABELS]
    return found[-1] if found else None


__all__ = ["Duel", "EndpointJudge", "Judge", "RewardJudge", "graded", "read_verdict"]
