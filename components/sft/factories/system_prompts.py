"""Factory 8, robust system instruction: hundreds of system prompts, each consistent with its conversation.

A system prompt is a role, a manner and a rule for the form of the answer; the rule can be checked. The same questions
come under many prompts, and what is kept must be right and keep the rule. ``variance`` measures what the report asks
for: how much the share of right answers differs between prompts.
"""

import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from statistics import pvariance

from components.sft.factories import mathematics
from components.sft.factories.factory import Candidate, Factory, Verdict, accept, one_by_one, reject

ROLES = (
    "You are a helpful assistant.", "You are a patient teacher.", "You are a strict examiner.",
    "You are an accountant.", "You are a friendly tutor for children.", "You work at a help desk.",
    "You are a careful engineer.",
    "You answer for a public library.",
)  # fmt: skip
MANNERS = ("Be brief.", "Be exact.", "Stay calm and polite.", "Do not talk about yourself.", "Use plain words.")
Rule = tuple[str, Callable[[str], str], Callable[[str], bool]]
RULES: dict[str, Rule] = {
    "none": ("", lambda t: t, lambda t: True),
    "greeting": ("Begin every answer with 'Hello.' on a line of its own.", lambda t: f"Hello.\n{t}",
                 lambda t: t.startswith("Hello.\n")),
    "numbered": ("Number the lines before the last, from 1.", lambda t: _numbered(t),
                 lambda t: all(re.match(rf"{i}\. ", line) for i, line in enumerate(t.splitlines()[:-1], 1))),
    "result": ("Write the word RESULT on the line before the last.",
               lambda t: "\n".join([*t.splitlines()[:-1], "RESULT", t.splitlines()[-1]]),
               lambda t: t.splitlines()[-2:-1] == ["RESULT"]),
    "dashes": ("Begin each line but the last with a dash and a blank.",
               lambda t: "\n".join([*(f"- {line}" for line in t.splitlines()[:-1]), t.splitlines()[-1]]),
               lambda t: all(line.startswith("- ") for line in t.splitlines()[:-1])),
}  # fmt: skip


def _numbered(text: str) -> str:
    *lines, last = text.splitlines()
    return "\n".join([*(f"{i}. {line}" for i, line in enumerate(lines, 1)), last])


def system_prompts() -> list[tuple[str, str]]:
    """All prompts with the name of their rule: 8 roles, 5 manners, 5 rules."""
    return [
        (" ".join(filter(None, (role, manner, RULES[rule][0]))), rule)
        for role in ROLES for manner in MANNERS for rule in RULES
    ]  # fmt: skip


def write(rng: random.Random, planted_share: float) -> Iterator[Candidate]:
    """A planted error is a wrong answer, or a right one that breaks the system prompt's rule."""
    prompts, problems = system_prompts(), mathematics.write(rng, 0.0)
    while True:
        problem, (prompt, rule) = next(problems), rng.choice(prompts)
        planted = rng.choice(("answer", "rule")) if rng.random() < planted_share else ""
        if planted == "rule" and rule == "none":
            planted = "answer"
        response = problem.response if planted == "rule" else RULES[rule][1](problem.response)
        if planted == "answer":
            response = re.sub(r"Answer: .*", "Answer: -1", response)
        messages = [{"role": "system", "content": prompt}, *problem.messages]
        yield Candidate(rule, messages, response, problem.answer, {"rule": rule}, planted)


def check(candidate: Candidate) -> Verdict:
    """The rule first, then the answer and the chain without what the rule has added."""
    if not RULES[candidate.facts["rule"]][2](candidate.response):
        return reject("system prompt not followed", rule=candidate.facts["rule"])
    lines = [re.sub(r"^(\d+\. |- )", "", line) for line in candidate.response.splitlines()]
    plain = "\n".join(line for line in lines if line not in ("Hello.", "RESULT"))
    verdict = mathematics.check(Candidate("", [], plain, candidate.answer))
    if not verdict.accepted:
        return verdict
    return accept(rule=candidate.facts["rule"], **verdict.evidence)


def variance(candidates: Sequence[Candidate], verdicts: Sequence[Verdict]) -> float:
    """Of the accepted share between system prompts; 0 is robust."""
    shares: dict[str, list[bool]] = defaultdict(list)
    for candidate, verdict in zip(candidates, verdicts, strict=True):
        shares[candidate.messages[0]["content"]].append(verdict.accepted)
    return pvariance([sum(values) / len(values) for values in shares.values()])


FACTORY = Factory(8, "system_prompts", write, one_by_one(check))
