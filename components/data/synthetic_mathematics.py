"""Mathematics: problems of ``reasoning_gym`` with worked solutions.

A solution is right when the family's own scorer gives its answer full marks and every equation in it holds: a right
answer after a wrong step is refused too (process and outcome, as with a math reward model).
"""

import math
import random
import re
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any

from components.data.candidates import ACCEPTED, Candidate

Solver = Callable[[Mapping[str, Any]], list[str]]
_EQUATION = re.compile(r"^(?:[^=:\n]*: )?([-\d(][\d\s+*/().-]*) = (-?\d+(?:\.\d+)?(?:/\d+)?)$", re.MULTILINE)
_ARITHMETIC = re.compile(r"[\d\s+*/().-]+")


def write(
    families: Mapping[str, Mapping[str, Any]], error_share: float, rng: random.Random, batch: int = 500
) -> Iterator[Candidate]:
    """Endless candidates, family after family; a share has one number of its steps or answer changed."""
    import reasoning_gym

    while True:
        sets = {
            name: reasoning_gym.create_dataset(
                name, size=batch, seed=rng.randrange(1 << 30), **_settings(name, options)
            )
            for name, options in families.items()
        }
        for index in range(batch):
            for name, dataset in sets.items():
                entry = dataset[index]
                steps = SOLVERS.get(name, _no_steps)(entry)
                lines = [*steps, f"Answer: {_clean(entry['answer'])}"]
                correct = rng.random() >= error_share
                if not correct:
                    lines = _slip(lines, rng)
                yield candidate(name, dataset, entry, lines, correct)


def candidate(family: str, dataset: Any, entry: Mapping[str, Any], lines: list[str], correct: bool | None) -> Candidate:
    """A problem with somebody's solution, ready to be verified."""
    text = "\n".join([f"Problem: {_question(entry['question'])}", *lines])
    return Candidate(text, family, correct, {"dataset": dataset, "entry": entry, "lines": lines})


def verify(candidates: list[Candidate]) -> list[str]:
    return [_verdict(candidate) for candidate in candidates]


def _verdict(candidate: Candidate) -> str:
    lines, entry = candidate.evidence["lines"], candidate.evidence["entry"]
    if not lines or not lines[-1].startswith("Answer: "):
        return "no answer"
    answer = lines[-1].removeprefix("Answer: ")
    if candidate.evidence["dataset"].score_answer(_unclean(answer, entry["answer"]), entry) < 1.0:
        return "wrong answer"
    return ACCEPTED if equations_hold("\n".join(lines[:-1])) else "wrong step"


def equations_hold(text: str) -> bool:
    """Whether each line ``expression = number`` of the text is true, in exact arithmetic."""
    return all(evaluate(left) == Fraction(right) for left, right in _EQUATION.findall(text))


def evaluate(expression: str) -> Fraction | None:
    """Exact value of an expression over integers with ``+ - * / ( )``; ``None`` where it has none."""
    if not _ARITHMETIC.fullmatch(expression):
        return None
    exact = re.sub(r"\d+(?:\.\d+)?", r"Fraction('\g<0>')", expression)
    try:
        return Fraction(eval(exact, {"__builtins__": {}, "Fraction": Fraction}))
    except (SyntaxError, ZeroDivisionError, TypeError):
        return None


def _slip(lines: list[str], rng: random.Random) -> list[str]:
    """Change one number: the last of a step that states an equation, or of the answer."""
    places = [number for number, line in enumerate(lines) if _EQUATION.match(line)] + [len(lines) - 1] * 2
    place = rng.choice(places)
    head, last = re.fullmatch(r"(.*?)(\d+)(\D*)", lines[place], re.DOTALL).group(1, 2)  # type: ignore[union-attr]
    tail = lines[place][len(head) + len(last) :]
    wrong = str(max(0, int(last) + rng.choice((-10, -2, -1, 1, 2, 10)))) if int(last) else "7"
    return [*lines[:place], head + (wrong if wrong != last else last + "1") + tail, *lines[place + 1 :]]


def _settings(family: str, options: Mapping[str, Any]) -> dict[str, Any]:
    settings: dict[str, Any] = {
        name: int(value) if isinstance(value, float) and value.is_integer() else value
        for name, value in options.items()
    }
    if "styles" in settings:
        settings["styles"] = str(settings["styles"]).split(",")
    return settings


def _question(text: str) -> str:
    """The question without the sentences about how to print an answer."""
    text = re.sub(
        r"\s*(Give only|Give the result|Please follow|Do not include|Return only)[^\n]*(\n.*)?$", "", text, flags=re.S
    )
    return text.strip().removeprefix("State the final answer to the following arithmetic problem: ").strip()


def _clean(answer: str) -> str:
    return str(answer).replace("'", "").replace(".0", "")


def _unclean(answer: str, like: str) -> str:
    """Back to the notation that a family's scorer reads: lists of quoted numbers."""
    if not str(like).startswith("["):
        return answer
    return "[" + ", ".join(f"'{part.strip()}'" for part in answer.strip("[]").split(",")) + "]"


def _no_steps(entry: Mapping[str, Any]) -> list[str]:
    return []


def _left_to_right(entry: Mapping[str, Any]) -> list[str]:
    """``4 - 1 - 7``: one operation a line, products and quotients first."""
    tokens: list[Any] = re.findall(r"(?<![\d)] )-\d+|\d+|[-+*/()]", entry["metadata"]["expression"])
    if "(" in tokens:
        return []
    steps = []
    for operators in ("*/", "+-"):
        place = 1
        while place < len(tokens):
            if tokens[place] in operators:
                operation = f"{tokens[place - 1]} {tokens[place]} {tokens[place + 1]}"
                value = evaluate(operation)
                steps.append(f"{operation} = {value}")
                tokens[place - 1 : place + 2] = [str(value)]
            else:
                place += 2
    return steps


def _euclid(numbers: list[int]) -> tuple[list[str], int]:
    steps, divisor = [], numbers[0]
    for number in numbers[1:]:
        larger, smaller = max(divisor, number), min(divisor, number)
        while smaller:
            quotient, rest = divmod(larger, smaller)
            steps.append(f"{larger} - {smaller} * {quotient} = {rest}")
            larger, smaller = smaller, rest
        divisor = larger
    return steps, divisor


def _gcd(entry: Mapping[str, Any]) -> list[str]:
    return _euclid(entry["metadata"]["numbers"])[0]


def _lcm(entry: Mapping[str, Any]) -> list[str]:
    first, *others = entry["metadata"]["numbers"]
    steps = []
    for other in others:
        divisor = math.gcd(first, other)
        steps += [f"The greatest common divisor of {first} and {other} is {divisor}."]
        steps += [f"{first} * {other} / {divisor} = {first * other // divisor}"]
        first = first * other // divisor
    return steps


def _product(entry: Mapping[str, Any]) -> list[str]:
    left, *rest = (int(part) for part in entry["metadata"]["expression"].split(" * "))
    steps = []
    for right in rest:
        parts = [int(digit) * 10**power for power, digit in enumerate(reversed(str(right))) if digit != "0"]
        if len(parts) > 1:
            steps += [f"{left} * {part} = {left * part}" for part in parts]
            steps += [" + ".join(str(left * part) for part in parts) + f" = {left * right}"]
        else:
            steps += [f"{left} * {right} = {left * right}"]
        left *= right
    return steps


def _fraction(entry: Mapping[str, Any]) -> list[str]:
    top, bottom = entry["metadata"]["numerator"], entry["metadata"]["denominator"]
    steps, divisor = _euclid([top, bottom])
    return [*steps, f"{top} / {divisor} = {top // divisor}", f"{bottom} / {divisor} = {bottom // divisor}"]


def _sorting(entry: Mapping[str, Any]) -> list[str]:
    numbers = [float(number) for number in entry["metadata"]["sorted_numbers"]]
    return [f"The largest is {max(numbers):g} and the smallest is {min(numbers):g}."]


def _chain_of_thought(entry: Mapping[str, Any]) -> list[str]:
    """The family's own reasoning, up to its marked answer."""
    steps = str(entry["metadata"]["answer_cot"]).partition("####")[0].strip()
    return [line.strip() for line in steps.splitlines() if line.strip()]


SOLVERS: dict[str, Solver] = {
    "chain_sum": _left_to_right, "basic_arithmetic": _left_to_right, "gcd": _gcd, "lcm": _lcm, "products": _product,
    "fraction_simplification": _fraction, "number_sorting": _sorting, "gsm_symbolic": _chain_of_thought,
}  # fmt: skip
