"""``qwenforge bench``: the modules of benchmarks/, by name."""

import ast
from importlib import import_module
from pathlib import Path

from flows.errors import UsageError

FOLDER = Path(__file__).parent.parent / "benchmarks"


def benchmarks() -> dict[str, str]:
    """Name -> what it claims (the first paragraph of its docstring). Nothing is imported."""
    found = {}
    for file in sorted(FOLDER.glob("*.py")):
        text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        if text.startswith("Hypothesis: "):
            found[file.stem] = " ".join(text.removeprefix("Hypothesis: ").split("\n\n")[0].split())
    return found


def bench_command(name: str, arguments: list[str]) -> int:
    """Run a benchmark with its own arguments; its exit code."""
    if name not in benchmarks():
        raise UsageError(f"no benchmark {name!r}; there are {', '.join(benchmarks())}")
    return import_module(f"benchmarks.{name}").main(arguments)
