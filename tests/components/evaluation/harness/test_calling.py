"""Verdicts on function calls are those of Berkeley's own checker, on right calls and on calls broken in many ways."""

import json
import random
from typing import Any

import pytest

from benchmarks import owners
from components.evaluation.harness.calling import is_right, questions, read_calls, right_arguments
from components.evaluation.harness.task import Question
from components.stage import StageError


@pytest.fixture(scope="module")
def asked() -> list[Question]:
    try:
        return questions(None)
    except StageError as error:
        pytest.skip(f"the package could not be fetched: {error}")


def written(name: str, arguments: Any) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def test_all_400_right_calls_are_right(asked: list[Question]) -> None:
    assert len(asked) == 400
    assert all(is_right(*question.reference, question.target) for question in asked)


def changed(value: Any, rng: random.Random) -> Any:
    """Something like the value: another type, case, order, an element more or less."""
    if isinstance(value, bool):
        return rng.choice([not value, int(value), str(value)])
    if isinstance(value, int | float):
        return rng.choice([value + 1, float(value), int(value), str(value), [value], None])
    if isinstance(value, str):
        return rng.choice([value.upper(), value.replace(" ", "-"), value + "!", value + "x", "", [value], 3, None])
    if isinstance(value, list):
        return rng.choice([value[::-1], value[:-1], [*value, *value[:1]], [changed(one, rng) for one in value],
                           value[0] if value else "", [str(one) for one in value], []])  # fmt: skip
    if isinstance(value, dict):
        key = rng.choice(sorted(value)) if value else "k"
        return rng.choice([{**value, key: changed(value.get(key), rng)}, {**value, "extra": 1},
                           {k: v for k, v in value.items() if k != key}, [value], {}])  # fmt: skip
    return value


def mutants(question: Question, rng: random.Random) -> list[str]:
    _, truth = question.reference
    (name, possible), *_ = truth[0].items()
    right = {key: rng.choice([one for one in values if one != ""]) for key, values in possible.items()
             if any(one != "" for one in values)}  # fmt: skip

    right = right_arguments({key: [value] for key, value in right.items()})
    calls = [right]
    for key in right:
        calls += [{**right, key: changed(right[key], rng)} for _ in range(3)]
        calls.append({k: v for k, v in right.items() if k != key})
    calls += [{**right, "unasked": 1}, {}]
    answers = [written(name, call) for call in calls]
    return [
        *answers, written(name.upper(), right), answers[0] + "\n" + answers[0], "Sure: " + answers[0] + " Done.",
        answers[0].replace("\n", ""), answers[0][:-20], answers[0].replace("}", "", 1), "", "No function fits.",
        "<tool_call>\n[1]\n</tool_call>", '<tool_call>\n{"name": "f"}\n</tool_call>', written(name, [1]),
        f"<tool_call>\nnonsense\n</tool_call>\n{answers[0]}",
    ]  # fmt: skip


def test_verdicts_are_the_owners(asked: list[Question]) -> None:
    rng = random.Random(0)
    seen = {True: 0, False: 0}
    for question in asked:
        for answer in mutants(question, rng):
            try:
                theirs = owners.bfcl(question, answer)
            except Exception:  # what their checker cannot digest their runner would stop at: it is no right answer
                theirs = False
            seen[theirs] += 1
            assert is_right(*question.reference, answer) == theirs, (question.id, answer)
    assert seen[True] > 1_500 and seen[False] > 5_000


def test_calls_are_read_from_their_tags() -> None:
    assert read_calls(written("f", {"a": 1}) + written("g", {})) == [{"f": {"a": 1}}, {"g": {}}]
    assert read_calls('{"name": "f", "arguments": {}}') == []
    assert read_calls("<tool_call>\n[]\n</tool_call>") is None
