"""Verifiable task families: problems whose answers a program can judge.

They feed SFT (reference responses), DPO (verified pairs), GRPO (verifiable rewards) and evaluation. Each family is
generated from a seeded ``random.Random``, so that a split of any size can be made again from its seed.

Usage::

    problem = generate("chain_sum", random.Random(0))
    verify(problem, solution(problem, random.Random(1)))  # Verdict(correct=True, format=True)
    verify(("chain_sum", "68"), "Answer: 68")             # the same from stored columns
"""

import random
from typing import Any

from components.sft.instruction_families import INSTRUCTION_FAMILIES
from components.sft.problems import Family, Message, Problem, Verdict
from components.sft.reasoning_families import REASONING_FAMILIES

FAMILIES: dict[str, Family] = {family.name: family for family in (*REASONING_FAMILIES, *INSTRUCTION_FAMILIES)}
DOMAINS: dict[str, str] = {family.name: family.domain for family in FAMILIES.values()}


def generate(family: str, rng: random.Random) -> Problem:
    """A fresh problem of the family."""
    return FAMILIES[family].generate(rng)


def verify(problem: Problem | tuple[str, Any], response: str) -> Verdict:
    """Judge a response to a problem, or to a ``(family, answer)`` pair as stored in conversations."""
    family, answer = (problem.family, problem.answer) if isinstance(problem, Problem) else problem
    return FAMILIES[family].check(answer, response)


def solution(problem: Problem, rng: random.Random) -> str:
    """A reference response that verifies."""
    return FAMILIES[problem.family].solve(problem, rng)


def mistake(problem: Problem, rng: random.Random) -> str:
    """A well-formed response with wrong content."""
    return FAMILIES[problem.family].mistake(problem, rng)


def misformat(response: str, rng: random.Random) -> str:
    """The same content in a form that no family accepts: a preamble, an afterthought or a broken marker."""
    marked = response.replace("Answer: ", "So it is ").replace("<answer>", "(").replace("</answer>", ")")
    return rng.choice((f"Sure! {marked}\nHope it helps.", f"{response}\nIs that right?", f"```\n{marked}\n```"))


__all__ = [
    "DOMAINS", "FAMILIES", "Family", "Message", "Problem", "Verdict", "generate", "misformat", "mistake",
    "solution", "verify",
]  # fmt: skip
