"""Every declared language: complete entries; where the toolchain is there, a program, an error and tests."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from components.sandbox.isolation import available_isolation
from components.sandbox.languages import Language, find_language, language_of_file, languages
from components.sandbox.pool import SandboxPool
from components.sandbox.run import program_job, run_program
from components.stage import StageError

isolated = pytest.mark.skipif(available_isolation() == "limits", reason="this host offers no isolation")


def each(chosen=lambda language: True):
    """A case a language; those whose toolchain is missing here are skipped by name."""
    return pytest.mark.parametrize(
        "language",
        [
            pytest.param(
                language, id=language.name,
                marks=pytest.mark.skipif(
                    bool(language.missing_tools), reason=f"needs {', '.join(language.missing_tools)}"
                ),
            )
            for language in languages().values()
            if chosen(language)
        ],
    )  # fmt: skip


@dataclass(frozen=True)
class Function:
    """A function that doubles, a call of it, and source text of the right and a wrong value."""

    program: str
    call: str = "twice(21)"
    right: str = "42"
    wrong: str = "43"


FUNCTIONS = {
    "python": Function("def twice(n):\n    return 2 * n"),
    "javascript": Function("const twice = n => [2 * n];", right="[42]", wrong="[43]"),
    "typescript": Function("function twice(n: number): number { return 2 * n; }"),
    "bash": Function("twice() { echo $((2 * $1)); }", "twice 21"),
    "c": Function("static int twice(int n) { return 2 * n; }"),
    "cpp": Function("#include <string>\nint twice(int n) { return 2 * n; }"),
    "rust": Function("fn twice(n: i64) -> i64 { 2 * n }"),
    "java": Function("static int twice(int n) { return 2 * n; }"),
    "perl": Function("sub twice { return 2 * $_[0]; }"),
    "php": Function("function twice($n) { return 2 * $n; }"),
    "ruby": Function("def twice(n) = 2 * n"),
    "lua": Function("local function twice(n) return 2 * n end"),
    "go": Function("func twice(n int) int { return 2 * n }"),
    "r": Function("twice <- function(n) 2 * n"),
    "sql": Function("CREATE TABLE numbers (n); INSERT INTO numbers VALUES (20), (22);", "SELECT SUM(n) FROM numbers"),
    "tcl": Function("proc twice {n} {expr {2 * $n}}", "twice 21"),
    "awk": Function("function twice(n) { return 2 * n }"),
    "lisp": Function("(defun twice (n) (* 2 n))", "(twice 21)"),
    "scheme": Function("(define (twice n) (* 2 n))", "(twice 21)"),
    "ocaml": Function("let twice n = 2 * n", "twice 21"),
    "nim": Function("proc twice(n: int): int = 2 * n"),
    "elixir": Function("defmodule M do\n  def twice(n), do: 2 * n\nend", "M.twice(21)"),
    "coffeescript": Function("twice = (n) -> 2 * n"),
}


@pytest.fixture(scope="module")
def pool():
    with SandboxPool() as opened:
        yield opened


def test_nearly_forty_languages_are_declared_each_complete() -> None:
    assert len(languages()) >= 40
    for language in languages().values():
        assert language.file and language.run and language.sample and language.package
        assert language.tools
        assert bool(language.check_line) == (language.name in FUNCTIONS)


def test_no_two_languages_share_an_ending() -> None:
    for language in languages().values():
        assert language_of_file(Path(f"folder/x{Path(language.file).suffix}")) is language


def test_an_unknown_language_names_the_known_ones() -> None:
    with pytest.raises(StageError, match=r"no language 'cobol'; there are python"):
        find_language("cobol")
    with pytest.raises(StageError, match=r"\.py"):
        language_of_file(Path("essay.docx"))


def test_a_missing_toolchain_names_its_package() -> None:
    entry = Language("none", "x.none", "no-such-tool x.none", "", "the-package")
    with pytest.raises(StageError, match="no-such-tool; install the package the-package"):
        entry.job("")


@isolated
@each()
def test_the_sample_doubles_its_input(language: Language, pool: SandboxPool) -> None:
    result = pool.run(program_job(language.name, language.sample, stdin="21\n", expected_output="42"))
    assert result.status == "passed", result
    result = pool.run(program_job(language.name, language.sample, stdin="21\n", expected_output="43"))
    assert result.status == "wrong_answer", result


@isolated
@each(lambda language: language.check_line)
def test_its_template_tells_right_from_wrong(language: Language, pool: SandboxPool) -> None:
    function = FUNCTIONS[language.name]
    right, wrong = (
        pool.run(language.job(language.with_tests(function.program, [(function.call, value)])))
        for value in (function.right, function.wrong)
    )
    assert right.status == "passed", right
    assert wrong.status == ("failed" if language.name == "sql" else "wrong_answer"), wrong


@isolated
@each(lambda language: language.check or language.compile)
def test_nonsense_is_refused_before_it_runs(language: Language, pool: SandboxPool) -> None:
    opening = "<?php " if language.name == "php" else ""
    result = run_program(language.name, opening + "if (((( }{ \"'", pool=pool)
    assert result.status == "compile_error", result
    assert result.step in ("check", "compile")


@isolated
def test_a_run_that_hangs_is_ended(pool: SandboxPool) -> None:
    assert run_program("bash", "while :; do :; done", timeout=0.5, pool=pool).status == "timeout"
