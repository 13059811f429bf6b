"""HumanEval in the sandbox: all 164 reference solutions pass their tests, and all 164 broken ones fail them."""

from collections import Counter

import pytest

from components.sandbox.human_eval import Problem, broken_program, program, read_problems
from components.sandbox.isolation import available_isolation
from components.sandbox.job import Limits
from components.sandbox.pool import shared_pool
from components.sandbox.run import python_job
from components.stage import StageError

pytestmark = pytest.mark.skipif(available_isolation() == "limits", reason="this host offers no isolation")
LIMITS = Limits(timeout=60)
"""A busy machine may be slow; what is wrong fails at once."""


@pytest.fixture(scope="module")
def problems() -> list[Problem]:
    try:
        return read_problems()
    except StageError as error:
        pytest.skip(f"HumanEval could not be fetched: {error}")


def test_every_reference_solution_passes(problems: list[Problem]) -> None:
    results = shared_pool().map(python_job(program(problem), LIMITS) for problem in problems)
    assert Counter(result.status for result in results) == {"passed": 164}


def test_every_broken_solution_fails_its_tests(problems: list[Problem]) -> None:
    results = list(shared_pool().map(python_job(broken_program(problem), LIMITS) for problem in problems))
    assert len(results) == 164
    # an assertion, or an error where a test computes with the text that it got
    assert {result.status for result in results} <= {"wrong_answer", "failed"}
