"""Factory 2, mathematics: chains of thought by rejection sampling against annotated answers.

A response is kept where its last line equals the annotated answer (math-verify, so 3/4 is 0.75) and where every
equation of its chain is true: a right answer from a wrong step teaches the wrong step. The arithmetic of the steps
does what the report's reward model does, for problems that consist of arithmetic.
"""

import ast
import operator
import random
import re
from collections.abc import Callable, Iterator
from fractions import Fraction

from components.sft.factories.factory import Candidate, Factory, Verdict, accept, one_by_one, reject
from components.sft.problems import final_answer, same_number, user

_THINGS = ("apples", "coins", "books", "stamps", "pens", "cards")
_NAMES = ("Ann", "Ben", "Kim", "Sam", "Mia", "Tom")
_EQUATION = re.compile(r"([-\d+*/(). ]+)=\s*(-?\d+(?:/\d+|\.\d+)?)")
_OPERATIONS: dict[type, Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
}  # fmt: skip
Steps = list[tuple[str, Fraction]]
"""Expression and value of each step; the last value is the answer."""


def write(rng: random.Random, planted_share: float) -> Iterator[Candidate]:
    """Word problems with chains; a planted error is a wrong answer, or a wrong step before a right answer."""
    makers = (_shopping, _share, _percentage, _average, _equation)
    while True:
        maker = rng.choice(makers)
        question, steps = maker(rng)
        answer = steps[-1][1]
        planted = rng.choice(("answer", "step")) if rng.random() < planted_share else ""
        if planted == "step" and len(steps) == 1:
            planted = "answer"
        shown = list(steps)
        if planted:
            place = -1 if planted == "answer" else rng.randrange(len(steps) - 1)
            shown[place] = (shown[place][0], shown[place][1] + rng.choice((-2, -1, 1, 2)))
        lines = [f"{expression} = {value}" for expression, value in shown]
        text = "\n".join([*lines, f"Answer: {_as_text(shown[-1][1], rng)}"])
        prompt = f"{question} Think step by step and end with a line 'Answer: ...'."
        yield Candidate(maker.__name__.strip("_"), user(prompt), text, str(answer), planted=planted)


def check(candidate: Candidate) -> Verdict:
    """Answer against annotation, then every equation of the chain."""
    given = final_answer(candidate.response)
    if given is None:
        return reject("no answer line")
    if not _same(str(candidate.answer), given):
        return reject("wrong answer", given=given)
    equations = _EQUATION.findall(candidate.response)
    for left, right in equations:
        value = arithmetic(left)
        if value is None or value != Fraction(right):
            return reject("flawed step", equation=f"{left.strip()} = {right}")
    if not equations:
        return reject("no chain of thought")
    return accept(given=given, annotated=candidate.answer, equations_checked=len(equations))


def _same(expected: str, given: str) -> bool:
    """Exactly where both are plain; other forms (LaTeX) go to math-verify."""
    try:
        return Fraction(given) == Fraction(expected)
    except (ValueError, ZeroDivisionError):
        return same_number(expected, given)


def arithmetic(text: str) -> Fraction | None:
    """Exact value of an expression of numbers and + - * / ( ); None where it is none."""
    try:
        return _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError):
        return None


def _value(node: ast.expr) -> Fraction:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return Fraction(str(node.value))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        return _OPERATIONS[type(node.op)](_value(node.left), _value(node.right))
    raise ValueError("not arithmetic")


def _as_text(value: Fraction, rng: random.Random) -> str:
    if value.denominator in (2, 4, 5) and rng.random() < 0.5:
        return str(float(value))
    return str(value)


def _shopping(rng: random.Random) -> tuple[str, Steps]:
    name, thing = rng.choice(_NAMES), rng.choice(_THINGS)
    count, price, paid = rng.randrange(2, 12), rng.randrange(2, 20), 300
    cost = Fraction(count * price)
    question = f"{name} buys {count} {thing} for {price} each and pays with {paid}. How much change is due?"
    return question, [(f"{count} * {price}", cost), (f"{paid} - {cost}", paid - cost)]


def _share(rng: random.Random) -> tuple[str, Steps]:
    whole, people, own = rng.randrange(20, 99), rng.randrange(2, 9), rng.randrange(1, 20)
    left = Fraction(whole - own)
    question = f"Of {whole} litres, {own} are lost. {people} people share the rest equally. How much is it for each?"
    return question, [(f"{whole} - {own}", left), (f"{left} / {people}", left / people)]


def _percentage(rng: random.Random) -> tuple[str, Steps]:
    price, percent = 10 * rng.randrange(2, 60), 5 * rng.randrange(1, 19)
    off = Fraction(price * percent, 100)
    question = f"A coat costs {price}. In the sale it is {percent}% cheaper. What does it cost then?"
    return question, [(f"{price} * {percent} / 100", off), (f"{price} - {off}", price - off)]


def _average(rng: random.Random) -> tuple[str, Steps]:
    values = [rng.randrange(1, 60) for _ in range(rng.choice((2, 4, 5)))]
    total = Fraction(sum(values))
    question = f"What is the average of {', '.join(map(str, values))}?"
    return question, [(" + ".join(map(str, values)), total), (f"{total} / {len(values)}", total / len(values))]


def _equation(rng: random.Random) -> tuple[str, Steps]:
    factor, added, right = rng.randrange(2, 12), rng.randrange(1, 30), rng.randrange(31, 120)
    rest = Fraction(right - added)
    return f"Solve {factor}x + {added} = {right} for x.", [
        (f"{right} - {added}", rest), (f"{rest} / {factor}", rest / factor)
    ]  # fmt: skip


FACTORY = Factory(2, "mathematics", write, one_by_one(check))
