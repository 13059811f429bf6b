"""Families of mathematics, logic and code: the answer stands on the last line after ``Answer: ``."""

import random
from functools import lru_cache
from typing import Any

from components.sft.problems import (
    NAMES,
    WORDS,
    Family,
    Problem,
    Verdict,
    ask,
    check_answer_line,
    final_answer,
    same_number,
)  # fmt: skip

_INDICES = 2**40  # reasoning-gym seeds an entry by its index, so an index is as good as a seed


@lru_cache(maxsize=8)
def _dataset(name: str, **parameters: Any) -> Any:
    """A reasoning-gym data set. Imported late: the package takes almost two seconds."""
    import reasoning_gym

    return reasoning_gym.create_dataset(name, size=_INDICES, seed=0, **parameters)


# -- mathematics: sums and differences (reasoning-gym's chain_sum) ---------------------------------------------


def _generate_sum(rng: random.Random) -> Problem:
    data = _dataset("chain_sum", min_terms=3, max_terms=3, min_digits=1, max_digits=1)
    entry = data[rng.randrange(_INDICES)]
    expression = entry["metadata"]["expression"]
    question = rng.choice(
        ("What is {}?", "Calculate {}.", "Work out {}.", "State the result of {}.", "Solve: {}")
    ).format(expression)
    return Problem("chain_sum", expression, ask(question, rng), entry["answer"], {"expression": expression})


def _solve_sum(problem: Problem, rng: random.Random) -> str:
    """From left to right, a step at a time."""
    first, sign, second, next_sign, third = problem.meta["expression"].split()
    so_far = int(first) + int(second) * (1 if sign == "+" else -1)
    steps = f"{first} {sign} {second} = {so_far}, {so_far} {next_sign} {third} = {problem.answer}"
    return f"{steps}\nAnswer: {problem.answer}"


def _mistake_sum(problem: Problem, rng: random.Random) -> str:
    wrong = int(problem.answer) + rng.choice((-10, -2, -1, 1, 2, 10))
    return f"{problem.meta['expression']} = {wrong}\nAnswer: {wrong}"


def _check_sum(answer: Any, response: str) -> Verdict:
    given = final_answer(response)
    return Verdict(given is not None and same_number(str(answer), given), given is not None)


# -- mathematics: sorting (reasoning-gym's number_sorting) -----------------------------------------------------


def _generate_sorting(rng: random.Random) -> Problem:
    data = _dataset(
        "number_sorting", min_numbers=3, max_numbers=4, min_decimals=0, max_decimals=0, min_value=0, max_value=99
    )  # fmt: skip
    facts = data[rng.randrange(_INDICES)]["metadata"]
    numbers = ", ".join(str(int(float(n))) for n in facts["original_numbers"])
    direction = facts["direction"]
    ends = ("smallest", "largest") if direction == "ascending" else ("largest", "smallest")
    question = rng.choice((
        f"Sort these numbers in {direction} order: {numbers}.",
        f"Put {numbers} in {direction} order.",
        f"Order {numbers} from {ends[0]} to {ends[1]}.",
    ))  # fmt: skip
    answer = ", ".join(str(int(float(n))) for n in facts["sorted_numbers"])
    return Problem("number_sorting", f"{direction} {numbers}", ask(question, rng), answer)


def _solve_line(problem: Problem, rng: random.Random) -> str:
    return f"Answer: {problem.answer}"


def _mistake_sorting(problem: Problem, rng: random.Random) -> str:
    """Swap two neighbours that differ, or, where all are equal, drop one."""
    numbers = problem.answer.split(", ")
    places = [i for i in range(len(numbers) - 1) if numbers[i] != numbers[i + 1]]
    if not places:
        return f"Answer: {', '.join(numbers[1:])}"
    i = rng.choice(places)
    numbers[i], numbers[i + 1] = numbers[i + 1], numbers[i]
    return f"Answer: {', '.join(numbers)}"


# reasoning-gym's own scorer of number_sorting lets each number be off by one; an exact comparison does not.


# -- logic: who is the oldest ----------------------------------------------------------------------------------

_RELATIONS = (
    ("older", "oldest", "youngest"),
    ("taller", "tallest", "shortest"),
    ("faster", "fastest", "slowest"),
    ("richer", "richest", "poorest"),
)


def _generate_ordering(rng: random.Random) -> Problem:
    people = rng.sample(NAMES, 3)  # from most to least
    more, most, least = rng.choice(_RELATIONS)
    chain = [f"{people[0]} is {more} than {people[1]}.", f"{people[1]} is {more} than {people[2]}."]
    facts = " ".join(rng.sample(chain, 2))
    asked, answer = rng.choice(((most, people[0]), (least, people[2])))
    question = rng.choice(("{} Who is the {}?", "{} Which person is the {}?", "{} Name the {} person."))
    meta = {"people": people, "chain": " ".join(chain)}
    return Problem("ordering", f"{facts} {asked}", ask(question.format(facts, asked), rng), answer, meta)


def _solve_ordering(problem: Problem, rng: random.Random) -> str:
    """The premises as a chain, from which the answer is read off."""
    return f"{problem.meta['chain']}\nAnswer: {problem.answer}"


def _mistake_ordering(problem: Problem, rng: random.Random) -> str:
    return f"Answer: {rng.choice([p for p in problem.meta['people'] if p != problem.answer])}"


# -- logic: true or false --------------------------------------------------------------------------------------


def _generate_truth(rng: random.Random) -> Problem:
    a, b = rng.sample(range(10, 100), 2)
    greater = rng.random() < 0.5
    claim = f"{a} is {'greater' if greater else 'less'} than {b}"
    question = rng.choice(
        ("True or false: {}.", "Is this true or false? {}.", "Say whether this is true or false: {}.")
    ).format(claim)
    return Problem("truth", claim, ask(question, rng), str((a > b) == greater).lower())


def _mistake_truth(problem: Problem, rng: random.Random) -> str:
    return f"Answer: {'false' if problem.answer == 'true' else 'true'}"


# -- code: what does this print --------------------------------------------------------------------------------


def _python_expression(rng: random.Random) -> tuple[str, object]:
    """A tiny expression and its value, computed beside it so that nothing is ever evaluated."""
    numbers = [rng.randrange(1, 10) for _ in range(rng.choice((3, 4)))]
    words, place = rng.sample(WORDS, 3), rng.randrange(3)
    return rng.choice((
        (f"max({numbers})", max(numbers)),
        (f"min({numbers})", min(numbers)),
        (f"len({numbers})", len(numbers)),
        (f"{numbers}[{place}]", numbers[place]),
        (f"{numbers}[-1]", numbers[-1]),
        (f"sorted({numbers})", sorted(numbers)),
        (f"{numbers}[::-1]", numbers[::-1]),
        (f"{words}[{place}]", words[place]),
        (f"{numbers[0]} + {numbers[1]}", numbers[0] + numbers[1]),
    ))  # fmt: skip


def _generate_python(rng: random.Random) -> Problem:
    expression, value = _python_expression(rng)
    question = rng.choice((
        f"What does print({expression}) show in Python?",
        f"What is the value of this Python expression? {expression}",
        f"Evaluate in Python: {expression}",
    ))  # fmt: skip
    return Problem("python", expression, ask(question, rng), str(value))


def _mistake_python(problem: Problem, rng: random.Random) -> str:
    answer = problem.answer
    if answer.isdigit():
        return f"Answer: {int(answer) + rng.choice((1, 2))}"
    return f"Answer: {rng.choice((answer[1:], answer + answer[-1]))}"


REASONING_FAMILIES = (
    Family("chain_sum", "mathematics", _generate_sum, _solve_sum, _mistake_sum, _check_sum),
    Family("number_sorting", "mathematics", _generate_sorting, _solve_line, _mistake_sorting, check_answer_line),
    Family("ordering", "logic", _generate_ordering, _solve_ordering, _mistake_ordering, check_answer_line),
    Family("truth", "logic", _generate_truth, _solve_line, _mistake_truth, check_answer_line),
    Family("python", "code", _generate_python, _solve_line, _mistake_python, check_answer_line),
)
