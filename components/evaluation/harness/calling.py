"""The simple category of the Berkeley Function Calling Leaderboard: one function, one call, judged by its arguments.

The rules are those of the owners' ``ast_checker`` for Python (types as declared, values among the possible answers,
strings without regard to case and punctuation); ``qwenforge bench eval`` holds the verdicts to theirs.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.evaluation.harness.data import field, read_rows
from components.evaluation.harness.task import Question, Scores, Task
from components.stage import StageError

TYPES: dict[str, type] = {
    "string": str, "integer": int, "float": float, "boolean": bool, "array": list, "tuple": list, "dict": dict,
    "any": str,
}  # fmt: skip
OPTIONAL = ""
"""Among the possible answers of a parameter: it may be left out."""
CALL = re.compile(r"<tool_call>\n(.*?)\n</tool_call>", re.DOTALL)


def questions(folder: Path | None) -> list[Question]:
    """The 400 Python questions; a user's own file has the answers in a field ``ground_truth``."""
    rows = read_rows("bfcl-simple", folder)
    answers = {} if "ground_truth" in rows[0] else {row["id"]: row for row in read_rows("bfcl-simple", None, 1)}
    found = []
    for number, row in enumerate(rows):
        where = f"bfcl-simple, record {number + 1}"
        name, functions = str(field(row, "id", where)), field(row, "function", where)
        truth = row.get("ground_truth") or answers.get(name, {}).get("ground_truth")
        if not truth:
            raise StageError(f"{where}: no possible answers to {name}")
        (called, arguments), *_ = truth[0].items()
        call = json.dumps({"name": called, "arguments": right_arguments(arguments)}, ensure_ascii=False)
        found.append(
            Question(
                id=name,
                prompt=str(field(row, "question", where)[0][-1]["content"]),
                target=f"<tool_call>\n{call}\n</tool_call>",
                reference=(functions, truth),
                tools=tuple(functions),
            )
        )
    return found


def right_arguments(possible: Mapping[str, list[Any]]) -> dict[str, Any]:
    """The first possible answer of each parameter that has one; those of dictionaries list them for each key."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return right_arguments(value)
        return [plain(one) for one in value] if isinstance(value, list) else value

    first = {name: next((one for one in values if one != OPTIONAL), None) for name, values in possible.items()}
    return {name: plain(value) for name, value in first.items() if value is not None}


def judge(questions: Sequence[Question], answers: Sequence[Sequence[str]]) -> Scores:
    """``acc``: the one call is right."""
    scores = []
    for question, given in zip(questions, answers, strict=True):
        functions, truth = question.reference
        scores.append({"acc": sum(is_right(functions, truth, answer) for answer in given) / len(given)})
    return scores


def is_right(functions: Sequence[Mapping[str, Any]], truth: Sequence[Mapping[str, Any]], answer: str) -> bool:
    """Whether the answer holds exactly one call, of the function that is asked for, with arguments that it takes."""
    calls = read_calls(answer)
    if calls is None or len(calls) != 1:
        return False
    (name, arguments), *_ = calls[0].items()
    return name == functions[0]["name"] and _arguments_right(functions[0], next(iter(truth[0].values())), arguments)


def read_calls(answer: str) -> list[dict[str, dict[str, Any]]] | None:
    """``[{name: arguments}]`` of the calls in their tags, those that are no JSON left out; None where one of them is
    no call."""
    calls = []
    for written in CALL.findall(answer):
        try:
            call = json.loads(written)
        except ValueError:
            continue
        if not isinstance(call, dict) or "name" not in call or not isinstance(call.get("arguments"), dict):
            return None
        if not isinstance(call["name"], str):
            return None
        calls.append({call["name"]: call["arguments"]})
    return calls


def _arguments_right(function: Mapping[str, Any], possible: Mapping[str, list[Any]], given: Mapping[str, Any]) -> bool:
    declared = function["parameters"]["properties"]
    if any(name not in given for name in function["parameters"]["required"]):
        return False
    for name, value in given.items():
        if name not in declared or name not in possible or not _value_right(declared[name], possible[name], value):
            return False
    return all(name in given or OPTIONAL in values for name, values in possible.items())


def _value_right(declared: Mapping[str, Any], possible: list[Any], value: Any) -> bool:
    kind = declared["type"]
    expected = TYPES[kind]
    inner = TYPES[declared["items"]["type"]] if kind in ("array", "tuple") else None
    if kind == "float" and type(value) is int:  # Python would convert it
        value = float(value)
    # Possible answers of another type than declared stand for variables, and a value of their type does as well.
    stands_for = _kind_of(possible)
    if not _type_right(value, possible, expected, inner):
        return False
    if type(value) is not expected or stands_for not in (None, expected):
        return value in possible
    if expected is dict:
        return any(_dict_right(one, value) for one in possible if one != OPTIONAL)
    if isinstance(value, list):
        if inner is dict:
            return any(_dicts_right(one, value) for one in possible)
        return [_plain(one) for one in value] in [[_plain(one) for one in answer] for answer in possible]
    if isinstance(value, str):
        return _plain(value) in [_plain(one) for one in possible if isinstance(one, str)]
    return value in possible


def _type_right(value: Any, possible: Sequence[Any], expected: type, inner: type | None) -> bool:
    """As declared, all elements included, or as the possible answers are."""
    elements: Sequence[Any] = value if isinstance(value, list) else ()
    if type(value) is not expected:
        return type(value) is _kind_of(possible)
    return inner is None or any(
        not isinstance(answer, list) or all(_type_right(one, answer, inner, None) for one in elements)
        for answer in possible
    )


def _kind_of(possible: Sequence[Any]) -> type | None:
    """Type of the possible answers; None where there is only the leave to leave it out."""
    return next((type(answer) for answer in possible if answer != OPTIONAL), None)


def _dict_right(possible: Any, value: Any) -> bool:
    if not isinstance(possible, dict) or not isinstance(value, dict):
        return False
    for key, one in value.items():
        if key not in possible or _plain(one) not in [_plain(answer) for answer in possible[key]]:
            return False
    return all(key in value or OPTIONAL in answers for key, answers in possible.items())


def _dicts_right(possible: Any, value: Sequence[Any]) -> bool:
    if len(possible) != len(value):
        return False
    return all(_dict_right(answer, one) for answer, one in zip(possible, value, strict=True))


def _plain(value: Any) -> Any:
    """Text without blanks, punctuation and case ("April 1, 2024" is "april 1 2024"); other values as they are."""
    return re.sub(r"[ ,./\-_*^]", "", value).lower().replace("'", '"') if isinstance(value, str) else value


BFCL_SIMPLE = Task("bfcl_simple", "generation", questions, judge, max_new_tokens=512, conversations_only=True)
