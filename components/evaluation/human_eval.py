"""HumanEval through a conversation: the model completes a function, its tests decide in the sandbox (pass@1, greedy).

Prompt and extraction follow the chat form of EvalPlus: the function's head stands in a fenced block, and the first such
block of the answer is taken; one that only continues the head is put behind it.
"""

import re
from collections.abc import Callable

from components.sandbox.human_eval import Problem, program, read_problems
from components.sandbox.job import Limits
from components.sandbox.pool import shared_pool
from components.sandbox.run import python_job
from components.sft.problems import Message

_BLOCK = re.compile(r"```[^\n]*\n(.*?)(?:```|\Z)", re.DOTALL)
_LIMITS = Limits(timeout=5.0, memory_mb=512, output_bytes=16_000)


def human_eval_problems(count: int) -> list[Problem]:
    """``count`` of the 164 problems, spread evenly over them."""
    problems = read_problems()
    return [problems[place * len(problems) // count] for place in range(count)] if count < len(problems) else problems


def ask(problem: Problem) -> list[Message]:
    """The conversation that asks for one function."""
    demand = "Complete this Python function. Reply with the whole function in one code block."
    return [{"role": "user", "content": f"{demand}\n```python\n{problem.prompt}```"}]


def completed(problem: Problem, answer: str) -> str:
    """What an answer amounts to, as a program with the problem's tests."""
    block = _BLOCK.search(answer)
    code = block.group(1) if block else answer
    if f"def {problem.entry_point}(" not in code:
        return program(problem, code)
    # Imports and helper functions of the prompt stay in reach: the answer defines the function once more.
    return program(problem, f"    pass\n\n{code}")


def passes(problems: list[Problem], answers: list[str], advance: Callable[[], None] = lambda: None) -> list[bool]:
    """Whether each answer passes the tests of its problem. StageError where the host offers no isolation."""
    jobs = [python_job(completed(p, answer), _LIMITS) for p, answer in zip(problems, answers, strict=True)]
    return [result.status == "passed" for result in shared_pool().map(jobs, advance)]
