"""Factory 6, logical reasoning: deductive, inductive, analogical, causal and statistical questions.

Forms: multiple choice, true or false, open. The check solves the question by brute force from its facts, then looks at
every step of the response: a right answer that rests on a false step is filtered too.
"""

import random
from collections.abc import Iterator
from itertools import pairwise, permutations
from typing import Any

from components.sft.factories.factory import Candidate, Factory, Verdict, accept, one_by_one, reject
from components.sft.problems import NAMES, final_answer, user

FORMS = ("choice", "truth", "open")
_PAIRS = (("plus", 3), ("plus", 7), ("times", 2), ("times", 3), ("times", 5))


def write(rng: random.Random, planted_share: float) -> Iterator[Candidate]:
    """A planted error is a wrong answer or a false step."""
    makers = (_deductive, _inductive, _analogical, _causal, _statistical)
    while True:
        maker, form = rng.choice(makers), rng.choice(FORMS)
        question, facts, steps = maker(rng)
        answer, others = solve(facts)
        planted = rng.choice(("answer", "step")) if rng.random() < planted_share else ""
        said = rng.choice(others) if planted == "answer" else answer
        if planted == "step":
            steps = [*steps[:-1], [*steps[-1][:-1], f"{steps[-1][-1]}0"]]
        if form == "choice":
            options = rng.sample([answer, *others[:3]], len(others[:3]) + 1)
            facts["options"] = options
            letters = ", ".join(f"{chr(65 + i)}) {option}" for i, option in enumerate(options))
            question, shown = (
                f"{question} Choose: {letters}.",
                chr(65 + options.index(said)) if said in options else "Z",
            )
        elif form == "truth":
            facts["claim"] = rng.choice((answer, others[0]))
            question = f"{question} True or false: it is {facts['claim']}."
            right = "true" if facts["claim"] == answer else "false"
            shown = right if planted != "answer" else {"true": "false", "false": "true"}[right]
        else:
            shown = said
        response = "\n".join([*(" ".join(step) for step in steps), f"Answer: {shown}"])
        prompt = f"{question} Give your steps, then a line 'Answer: ...'."
        facts |= {"form": form, "steps": [" ".join(step) for step in _true_steps(facts)]}
        yield Candidate(maker.__name__.strip("_"), user(prompt), response, None, facts, planted)


def check(candidate: Candidate) -> Verdict:
    """Solve again; compare the answer in its form, and each step with the true ones."""
    facts, given = candidate.facts, final_answer(candidate.response)
    answer, _ = solve(facts)
    expected = answer
    if facts["form"] == "choice":
        expected = chr(65 + facts["options"].index(answer))
    elif facts["form"] == "truth":
        expected = "true" if facts["claim"] == answer else "false"
    if given is None:
        return reject("no answer line")
    if given != expected:
        return reject("wrong answer", given=given, solved=expected)
    true = {" ".join(step) for step in _true_steps(facts)}
    for step in candidate.response.strip().splitlines()[:-1]:
        if step not in true:
            return reject("flawed step", step=step)
    return accept(solved=expected, form=facts["form"], steps_checked=len(true))


def solve(facts: dict[str, Any]) -> tuple[str, list[str]]:
    """The answer and wrong alternatives, found without looking at how the question was made."""
    kind = facts["kind"]
    if kind == "deductive":
        people = sorted({name for pair in facts["older"] for name in pair})
        orders = [o for o in permutations(people) if all(o.index(a) < o.index(b) for a, b in facts["older"])]
        return orders[0][0], [name for name in people if name != orders[0][0]]
    if kind == "causal":
        on = {facts["start"]}
        for _ in facts["causes"]:
            on |= {effect for cause, effect in facts["causes"] if cause in on and effect != facts["blocked"]}
        happens = facts["asked"] in on
        return ("it happens", ["it does not happen"]) if happens else ("it does not happen", ["it happens"])
    if kind == "statistical":
        value = sum(facts["values"]) - facts["known_sum"]
    else:
        rules = {(name, k) for name in ("plus", "times") for k in range(1, 12)}
        shown = facts["examples"]
        rule = next(r for r in sorted(rules) if all(_apply(r, a) == b for a, b in shown))
        value = _apply(rule, facts["asked"])
    return str(value), [str(value + 1), str(value + 2), str(value - 1)]


def _true_steps(facts: dict[str, Any]) -> list[list[str]]:
    kind = facts["kind"]
    if kind == "deductive":
        return [[a, "is", "older", "than", b] for a, b in facts["older"]]
    if kind == "causal":
        return [[cause, "causes", effect] for cause, effect in facts["causes"]]
    if kind == "statistical":
        return [["the", "sum", "is", str(sum(facts["values"]))], ["the", "known", "sum", "is", str(facts["known_sum"])]]
    return [[str(a), "leads", "to", str(b)] for a, b in facts["examples"]]


def _apply(rule: tuple[str, int], value: int) -> int:
    return value + rule[1] if rule[0] == "plus" else value * rule[1]


def _deductive(rng: random.Random) -> tuple[str, dict[str, Any], list[list[str]]]:
    people = rng.sample(NAMES, 4)
    older = [[people[i], people[i + 1]] for i in range(3)]
    told = " ".join(f"{a} is older than {b}." for a, b in rng.sample(older, 3))
    facts = {"kind": "deductive", "older": older}
    return f"{told} Who is the oldest?", facts, _true_steps(facts)


def _inductive(rng: random.Random) -> tuple[str, dict[str, Any], list[list[str]]]:
    rule, value = rng.choice(_PAIRS), rng.randrange(2, 9)
    series = [value]
    for _ in range(3):
        series.append(_apply(rule, series[-1]))
    facts = {
        "kind": "inductive",
        "examples": [list(p) for p in pairwise(series)],
        "asked": series[-1],
    }
    return (
        f"A series goes on by one rule: {', '.join(map(str, series))}, ... What comes next?",
        facts,
        _true_steps(facts),
    )


def _analogical(rng: random.Random) -> tuple[str, dict[str, Any], list[list[str]]]:
    rule, (a, b, c) = rng.choice(_PAIRS), rng.sample(range(2, 20), 3)
    examples = [[a, _apply(rule, a)], [b, _apply(rule, b)]]
    facts = {"kind": "analogical", "examples": examples, "asked": c}
    told = " and ".join(f"{x} is to {y}" for x, y in examples)
    return f"As {told}, so {c} is to what?", facts, _true_steps(facts)


def _causal(rng: random.Random) -> tuple[str, dict[str, Any], list[list[str]]]:
    events = rng.sample(("rain", "flood", "outage", "delay", "noise", "alarm", "heat"), 4)
    causes = [[events[i], events[i + 1]] for i in range(3)]
    blocked = rng.choice(("", *events[1:3]))
    facts = {"kind": "causal", "causes": causes, "start": events[0], "blocked": blocked, "asked": events[3]}
    told = " ".join(f"{a} causes {b}." for a, b in causes)
    stopped = f" Someone prevents the {blocked}." if blocked else ""
    return f"{told} There is {events[0]}.{stopped} What of the {events[3]}?", facts, _true_steps(facts)


def _statistical(rng: random.Random) -> tuple[str, dict[str, Any], list[list[str]]]:
    values = [rng.randrange(5, 60) for _ in range(4)]
    values[-1] += -sum(values) % 4
    facts = {"kind": "statistical", "values": values, "known_sum": sum(values[:3])}
    told = f"The average of four numbers is {sum(values) // 4}; three of them are {', '.join(map(str, values[:3]))}."
    return f"{told} What is the fourth?", facts, _true_steps(facts)


FACTORY = Factory(6, "logic", write, one_by_one(check))
