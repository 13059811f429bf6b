"""Families of instruction following and structured data: the prompt demands a form, the verifier checks it."""

import json
import random
import re
from typing import Any

from components.sft.problems import (
    NAMES,
    PLACES,
    WORDS,
    Family,
    Problem,
    Verdict,
    ask,
    check_answer_line,
    user,
)  # fmt: skip


def _other_word(word: str, rng: random.Random) -> str:
    return rng.choice([w for w in WORDS if w != word])


# -- a word of a list in <answer> tags -------------------------------------------------------------------------

_PLACES = {"first": 0, "second": 1, "last": -1}


def _generate_tagged(rng: random.Random) -> Problem:
    words, place = rng.sample(WORDS, 3), rng.choice(sorted(_PLACES))
    question = rng.choice((
        "Give the {place} word of this list in <answer> tags: {words}.",
        "Which word is {place} here: {words}? Reply as <answer> word </answer>.",
        "Write the {place} word between <answer> and </answer>: {words}.",
    )).format(place=place, words=", ".join(words))  # fmt: skip
    return Problem("tagged", f"{place} {words}", user(question), words[_PLACES[place]], {"words": words})


def _solve_tagged(problem: Problem, rng: random.Random) -> str:
    return f"<answer> {problem.answer} </answer>"


def _mistake_tagged(problem: Problem, rng: random.Random) -> str:
    return f"<answer> {rng.choice([w for w in problem.meta['words'] if w != problem.answer])} </answer>"


def _check_tagged(answer: Any, response: str) -> Verdict:
    match = re.fullmatch(r"<answer>([^<>\n]+)</answer>", response.strip())
    return Verdict(match is not None and match.group(1).strip() == answer, match is not None)


# -- exactly n repetitions, separated by commas ----------------------------------------------------------------


def _generate_repeat(rng: random.Random) -> Problem:
    word, count = " ".join(rng.sample(WORDS, 2)), rng.randrange(3, 7)
    question = rng.choice((
        f"Write {word} exactly {count} times, separated by commas.",
        f"Repeat {word} {count} times with commas between.",
        f"Say {word} {count} times. Separate with commas.",
        f"I want a comma-separated line with {word} in it {count} times and nothing else.",
    ))  # fmt: skip
    return Problem("repeat", f"{word} {count}", user(question), {"word": word, "count": count})


def _solve_repeat(problem: Problem, rng: random.Random) -> str:
    return ", ".join([problem.answer["word"]] * problem.answer["count"])


def _mistake_repeat(problem: Problem, rng: random.Random) -> str:
    word, count = problem.answer["word"], problem.answer["count"]
    if rng.random() < 0.5:
        return ", ".join([f"{word.split()[0]} {_other_word(word.split()[1], rng)}"] * count)
    return ", ".join([word] * (count + rng.choice((-1, 1))))


def _check_repeat(answer: Any, response: str) -> Verdict:
    items = response.strip().split(", ")
    formatted = len(items) > 1 and all(re.fullmatch(r"\w+( \w+)*", item) for item in items)
    return Verdict(formatted and items == [answer["word"]] * answer["count"], formatted)


# -- upper case ------------------------------------------------------------------------------------------------


def _generate_upper(rng: random.Random) -> Problem:
    words = " ".join(rng.sample(WORDS, 2))
    question = rng.choice((
        f"Write this in upper case: {words}",
        f"Reply only with these words in capital letters: {words}",
        f"Turn into capitals: {words}",
        f"How do you write '{words}' in all capitals? Give nothing else.",
    ))  # fmt: skip
    return Problem("upper", words, user(question), words.upper())


def _solve_plain(problem: Problem, rng: random.Random) -> str:
    return str(problem.answer)


def _mistake_upper(problem: Problem, rng: random.Random) -> str:
    first, *rest = problem.answer.split()
    return " ".join([_other_word(first.lower(), rng).upper(), *rest])


def _check_upper(answer: Any, response: str) -> Verdict:
    formatted = re.fullmatch(r"[A-Z]+( [A-Z]+)*", response.strip()) is not None
    return Verdict(formatted and response.strip() == answer, formatted)


# -- JSON with given keys --------------------------------------------------------------------------------------


def _generate_json(rng: random.Random) -> Problem:
    name, place, age = rng.choice(NAMES), rng.choice(PLACES), rng.randrange(18, 80)
    fact, record = rng.choice((
        (f"{name} lives in {place}.", {"name": name, "place": place}),
        (f"{name} is {age} years old.", {"name": name, "age": age}),
        (f"{name} is {age} and lives in {place}.", {"name": name, "age": age, "place": place}),
    ))  # fmt: skip
    keys = list(record)
    if rng.random() < 0.3:
        keys.reverse()
    listed = ", ".join(keys[:-1]) + f" and {keys[-1]}"
    question = rng.choice((
        f"Give a JSON object with the keys {listed}: {fact}",
        f"{fact} Write this as JSON with the keys {listed}.",
        f"Extract {listed} as a JSON object: {fact}",
    ))  # fmt: skip
    return Problem("json", f"{fact} {keys}", user(question), {key: record[key] for key in keys})


def _solve_json(problem: Problem, rng: random.Random) -> str:
    return json.dumps(problem.answer)


def _mistake_json(problem: Problem, rng: random.Random) -> str:
    record = dict(problem.answer)
    key = rng.choice(sorted(record))
    pools: dict[str, list[Any]] = {"name": NAMES, "place": PLACES, "age": list(range(18, 80))}
    record[key] = rng.choice([v for v in pools[key] if v != record[key]])
    return json.dumps(record)


def _check_json(answer: Any, response: str) -> Verdict:
    try:
        record = json.loads(response)
    except (ValueError, RecursionError):
        return Verdict(False, False)
    formatted = isinstance(record, dict) and set(record) == set(answer)
    return Verdict(formatted and record == answer, formatted)


# -- look up a cell of a Markdown table ------------------------------------------------------------------------


def _generate_table(rng: random.Random) -> Problem:
    people = rng.sample(NAMES, 3)
    column = rng.choice(("age", "place"))
    values = [str(v) for v in rng.sample(range(18, 80) if column == "age" else PLACES, 3)]
    rows = [f"| {name} | {value} |" for name, value in zip(people, values, strict=True)]
    table = "\n".join([f"| name | {column} |", "|---|---|", *rows])
    i = rng.randrange(3)
    asked = {
        "age": (f"How old is {people[i]}?", f"What is the age of {people[i]}?"),
        "place": (f"Where does {people[i]} live?", f"What is the place of {people[i]}?"),
    }
    question = rng.choice(asked[column])
    meta = {"row": rows[i], "values": values}
    return Problem("table", f"{rows} {question}", ask(f"{table}\n{question}", rng), values[i], meta)


def _solve_table(problem: Problem, rng: random.Random) -> str:
    """Quote the row, then read the cell."""
    return f"{problem.meta['row']}\nAnswer: {problem.answer}"


def _mistake_table(problem: Problem, rng: random.Random) -> str:
    return f"Answer: {rng.choice([value for value in problem.meta['values'] if value != problem.answer])}"


INSTRUCTION_FAMILIES = (
    Family("tagged", "instruction following", _generate_tagged, _solve_tagged, _mistake_tagged, _check_tagged),
    Family("repeat", "instruction following", _generate_repeat, _solve_repeat, _mistake_repeat, _check_repeat),
    Family("upper", "instruction following", _generate_upper, _solve_plain, _mistake_upper, _check_upper),
    Family("json", "structured data", _generate_json, _solve_json, _mistake_json, _check_json),
    Family("table", "structured data", _generate_table, _solve_table, _mistake_table, check_answer_line),
)  # fmt: skip
