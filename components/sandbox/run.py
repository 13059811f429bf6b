"""Runs code that nobody has read and says how it ended.

>>> run_python("assert sum(range(4)) == 6").status
'passed'
>>> run_program("lua", "print(io.read('n') * 2)", stdin="21", expected_output="42").status
'passed'

Each run has a sandbox of its own: no network, no environment, no files but the toolchains', a small fresh ``/tmp``, and
limits on memory, processes, time and output. Code that a model wrote runs only like this; where the host offers no
isolation ``StageError`` says what to install. ``passed`` means that the program came to its end. A program that is
out to fool its own tests, which in Python share its process, can claim that; it cannot reach anything else. The
kernel itself is the boundary: for code of an attacker who has kernel exploits use a virtual machine.
"""

from collections.abc import Sequence
from dataclasses import replace

from components.sandbox.job import Job, Limits, SandboxResult, Status, Step
from components.sandbox.languages import find_language
from components.sandbox.pool import SandboxPool, shared_pool

PYTHON_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8"}


def run_python(
    code: str,
    *,
    timeout: float = 5.0,
    memory_mb: int = 512,
    output_bytes: int = 64_000,
    pool: SandboxPool | None = None,
) -> SandboxResult:
    """Run one snippet. ``timeout`` in seconds of wall clock, ``output_bytes`` the most that is kept of its output."""
    limits = Limits(timeout=timeout, memory_mb=memory_mb, output_bytes=output_bytes)
    return (pool or shared_pool()).run(python_job(code, limits))


def run_many(
    snippets: Sequence[str],
    *,
    timeout: float = 5.0,
    memory_mb: int = 512,
    output_bytes: int = 64_000,
    own_code: bool = False,
) -> list[SandboxResult]:
    """Run Python snippets side by side, results in their order.

    ``own_code`` says that this project composed the snippets: then a host without isolation runs them under resource
    limits alone. Never set it for what a model wrote.
    """
    limits = Limits(timeout=timeout, memory_mb=memory_mb, output_bytes=output_bytes)
    pool = shared_pool(own_code)
    return list(pool.map(python_job(code, limits) for code in snippets))


def run_program(
    language: str,
    source: str,
    *,
    stdin: str = "",
    expected_output: str | None = None,
    timeout: float | None = None,
    memory_mb: int | None = None,
    pool: SandboxPool | None = None,
) -> SandboxResult:
    """Check, compile and run a program in any language of ``components/sandbox/languages.py``.

    StageError: no such language, or its toolchain is not installed. ``timeout`` is that of the run; the static check
    and the compiler have their own.
    """
    job = program_job(language, source, stdin=stdin, expected_output=expected_output)
    limits = job.steps[-1].limits
    last = replace(limits, timeout=timeout or limits.timeout, memory_mb=memory_mb or limits.memory_mb)
    steps = (*job.steps[:-1], replace(job.steps[-1], limits=last))
    return (pool or shared_pool()).run(replace(job, steps=steps))


def program_job(language: str, source: str, *, stdin: str = "", expected_output: str | None = None) -> Job:
    """The job of one program, for a pool's ``map``."""
    return find_language(language).job(source, stdin=stdin, expected_output=expected_output)


def python_job(code: str, limits: Limits) -> Job:
    """The job of one Python snippet in the warm interpreter."""
    step = Step("run", limits, python=code, environment=PYTHON_ENVIRONMENT, name="snippet.py")
    return Job((step,))


__all__ = ["SandboxResult", "Status", "program_job", "python_job", "run_many", "run_program", "run_python"]
