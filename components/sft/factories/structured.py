"""Factory 5, structured data: questions about tables in Markdown, CSV, HTML and JSON.

Table question answering, fact verification, error correction and structural understanding, with the rows that lead to
the answer. The check reads the table back from the prompt with a parser of the format, and computes the answer anew.
"""

import csv
import io
import json
import random
import re
from collections.abc import Iterator
from html import escape, unescape
from typing import Any

from components.sft.factories.factory import Candidate, Factory, Verdict, accept, one_by_one, reject
from components.sft.problems import NAMES, PLACES, final_answer, user

Table = list[dict[str, str]]
FORMATS = ("markdown", "csv", "html", "json")
TASKS = ("lookup", "sum", "largest", "count", "fact", "correction", "columns")


def write(rng: random.Random, planted_share: float) -> Iterator[Candidate]:
    """A planted error is another value as the answer."""
    while True:
        people = rng.sample(NAMES, rng.randrange(3, 7))
        table = [
            {"name": name, "city": rng.choice(PLACES), "age": str(rng.randrange(18, 80)),
             "items": str(rng.randrange(1, 50))}
            for name in people
        ]  # fmt: skip
        form, task, person = rng.choice(FORMATS), rng.choice(TASKS), rng.choice(people)
        query: dict[str, Any] = {"task": task, "name": person, "column": rng.choice(("age", "items"))}
        if task == "correction":
            rng.choice(table)[query["column"]] = rng.choice(("n/a", "minus one", "?"))
        if task == "fact":
            query["value"] = rng.choice([row[query["column"]] for row in table])
        answer = solve(table, query)
        shown = answer
        planted = "answer" if rng.random() < planted_share else ""
        while planted and shown == answer:
            others = [answer + "0", "true", "false", *people, *(row["age"] for row in table)]
            shown = rng.choice(others)
        response = f"{_reasoning(table, query)}\nAnswer: {shown}"
        prompt = f"{render(table, form)}\n\n{_question(query)} End with a line 'Answer: ...'."
        yield Candidate(f"{task}-{form}", user(prompt), response, answer, {"query": query, "format": form}, planted)


def check(candidate: Candidate) -> Verdict:
    """The answer to the query on the table as the prompt shows it."""
    prompt = candidate.messages[-1]["content"]
    try:
        table = parse(prompt.rpartition("\n\n")[0], candidate.facts["format"])
        expected = solve(table, candidate.facts["query"])
    except (ValueError, KeyError, IndexError, StopIteration) as error:
        return reject("table cannot be read", error=str(error))
    given = final_answer(candidate.response)
    if given is None:
        return reject("no answer line")
    if given != expected:
        return reject("wrong answer", given=given, recomputed=expected)
    return accept(recomputed=expected, rows=len(table), format=candidate.facts["format"])


def solve(table: Table, query: dict[str, Any]) -> str:
    """The answer to a query."""
    column, task = query["column"], query["task"]
    if task == "lookup":
        return next(row[column] for row in table if row["name"] == query["name"])
    if task == "sum":
        return str(sum(int(row[column]) for row in table))
    if task == "largest":
        return max(table, key=lambda row: (int(row[column]), row["name"]))["name"]
    if task == "count":
        own = next(int(row[column]) for row in table if row["name"] == query["name"])
        return str(sum(int(row[column]) > own for row in table))
    if task == "fact":
        found = any(row["name"] == query["name"] and row[column] == query["value"] for row in table)
        return "true" if found else "false"
    if task == "correction":
        return next(row["name"] for row in table if not row[column].isdigit())
    return ", ".join(table[0])


def _question(query: dict[str, Any]) -> str:
    column, name = query["column"], query["name"]
    return {
        "lookup": f"What is the {column} of {name}?",
        "sum": f"What is the sum of all values of {column}?",
        "largest": f"Who has the largest {column}? Of equals, take the name that comes last in the alphabet.",
        "count": f"How many people have a larger {column} than {name}?",
        "fact": f"True or false: the {column} of {name} is {query.get('value')}.",
        "correction": f"One value of {column} cannot be right, since it is no number. Whose?",
        "columns": "What are the columns, in their order, separated by comma and blank?",
    }[query["task"]]


def _reasoning(table: Table, query: dict[str, Any]) -> str:
    if query["task"] == "columns":
        return "The header names the columns."
    return "; ".join(f"{row['name']}: {row[query['column']]}" for row in table)


def render(table: Table, form: str) -> str:
    """The table as text."""
    columns, rows = list(table[0]), [list(row.values()) for row in table]
    if form == "json":
        return json.dumps(table, indent=1)
    if form == "csv":
        stream = io.StringIO()
        csv.writer(stream, lineterminator="\n").writerows([columns, *rows])
        return stream.getvalue().rstrip()
    if form == "markdown":
        lines = [columns, ["---"] * len(columns), *rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)
    cells = [
        "".join(f"<th>{escape(c)}</th>" for c in columns),
        *("".join(f"<td>{escape(c)}</td>" for c in r) for r in rows),
    ]
    return "<table>\n" + "\n".join(f"<tr>{row}</tr>" for row in cells) + "\n</table>"


def parse(text: str, form: str) -> Table:
    """The table back from its text."""
    if form == "json":
        return json.loads(text)
    if form == "csv":
        lines = list(csv.reader(io.StringIO(text)))
    elif form == "markdown":
        lines = [[cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines()]
        del lines[1]
    else:
        rows = re.findall(r"<tr>(.*?)</tr>", text)
        lines = [[unescape(cell) for cell in re.findall(r"<t[hd]>(.*?)</t[hd]>", row)] for row in rows]
    return [dict(zip(lines[0], row, strict=True)) for row in lines[1:]]


FACTORY = Factory(5, "structured", write, one_by_one(check))
