"""HumanEval by conversation: what becomes of answers in the forms that models give them."""

import pytest

from components.evaluation.human_eval import ask, completed, human_eval_problems, passes
from components.sandbox.human_eval import Problem
from components.sandbox.isolation import available_isolation
from components.stage import StageError

isolated = pytest.mark.skipif(available_isolation() == "limits", reason="this host offers no isolation")

DOUBLE = Problem(
    "Test/0",
    'import math\n\n\ndef double(x):\n    """Twice x."""\n',
    "    return 2 * x\n",
    "def check(candidate):\n    assert candidate(3) == 6\n    assert math.pi > 3\n",
    "double",
)
RIGHT = [
    "```python\ndef double(x):\n    return 2 * x\n```",
    "Sure!\n```python\ndef double(x: int):\n    return helper(x)\n\n\ndef helper(x):\n    return x + x\n```\nDone.",
    "    return 2 * x\n",
    "```\n    return 2 * x\n```",
    "```python\ndef double(x):\n    return 2 * x",  # cut before the block ended
]
WRONG = [
    "```python\ndef double(x):\n    return x\n```",
    "I cannot.",
    "",
    "```python\ndef double(x):\n    while True: pass\n```",
]


@isolated
def test_answers_are_judged_by_their_tests():
    answers = RIGHT + WRONG
    assert passes([DOUBLE] * len(answers), answers) == [True] * len(RIGHT) + [False] * len(WRONG)


def test_the_question_holds_the_head_alone():
    (message,) = ask(DOUBLE)
    assert DOUBLE.prompt in message["content"]
    assert DOUBLE.solution not in message["content"]
    assert DOUBLE.test in completed(DOUBLE, RIGHT[0])


@isolated
def test_the_reference_solutions_pass_and_a_selection_is_spread():
    try:
        problems = human_eval_problems(8)
    except StageError as error:
        pytest.skip(f"HumanEval could not be fetched: {error}")
    places = [0, 20, 41, 61, 82, 102, 123, 143]
    assert [problem.name for problem in problems] == [f"HumanEval/{place}" for place in places]
    whole = [f"```python\n{problem.prompt}{problem.solution}```" for problem in problems]
    assert passes(problems, whole) == [True] * 8
