"""Every family: references verify, mistakes and broken forms do not, generation is a function of the seed."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.sft.problems import final_answer, same_number
from components.sft.tasks import DOMAINS, FAMILIES, generate, misformat, mistake, solution, verify

families = st.sampled_from(sorted(FAMILIES))
seeds = st.integers(0, 2**32)


@settings(max_examples=300, deadline=None)
@given(families, seeds)
def test_reference_solution_verifies_and_corruptions_fail(family, seed):
    problem = generate(family, random.Random(seed))
    reference = solution(problem, random.Random(seed))
    assert verify(problem, reference) == (True, True)
    wrong = verify(problem, mistake(problem, random.Random(seed)))
    assert wrong.format and not wrong.correct
    assert verify(problem, misformat(reference, random.Random(seed))) == (False, False)


@settings(max_examples=200, deadline=None)
@given(families, seeds, st.text(max_size=80))
def test_any_text_gets_a_verdict_and_correct_implies_format(family, seed, response):
    verdict = verify(generate(family, random.Random(seed)), response)
    assert verdict.format or not verdict.correct


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_problems_survive_storage_and_are_a_function_of_the_seed(family):
    problem, again = (generate(family, random.Random(7)) for _ in range(2))
    assert problem == again
    stored = json.loads(json.dumps(problem.answer))
    assert verify((family, stored), solution(problem, random.Random(0))).correct
    assert len({json.dumps(generate(family, random.Random(i)).messages) for i in range(200)}) > 180


def test_domains_cover_the_objective_ones_of_the_report():
    assert set(DOMAINS.values()) == {
        "mathematics", "logic", "code", "instruction following", "structured data"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("Answer: 4", "4"), ("2 + 2 = 4\nAnswer: 4\n", "4"), ("4", None), ("answer: 4", None), ("", None),
        ("Answer: 4\nAnswer: 5", None), ("Answer: 4\nDone.", None), ("Answer: ", None), ("Answer:4", None),
    ],
)  # fmt: skip
def test_final_answer_needs_exactly_one_last_line(response, answer):
    assert final_answer(response) == answer


@pytest.mark.parametrize(
    ("expected", "given", "same"),
    [
        ("68", "68", True), ("68", "68.0", True), ("68", "-68", False), ("2", "4/2", True), ("3", "\\frac{6}{2}", True),
        ("3", "three", False), ("3", "9**9**9", False), ("3", "3 apples and more than enough of other things", False),
    ],
)  # fmt: skip
def test_numbers_are_compared_by_value(expected, given, same):
    assert same_number(expected, given) is same
