"""The languages of the sandbox: how each is checked, compiled, run and tested.

The table (``language_table.py``, ``language_table_more.py``) has one small entry a language; a new language is a new
entry. Nearly 40 languages are what the report's code factory covers (section 4.1) without naming them.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType

from components.sandbox.job import Job, Limits, Step
from components.sandbox.toolchains import find_tool
from components.stage import StageError

COMPILING = Limits(timeout=60, memory_mb=1536, address_space=False, processes=64, file_mb=64)
SMALL = Limits()
MANAGED = Limits(timeout=10, address_space=False, processes=64, memory_mb=768)
"""For runtimes that map far more memory than they touch, and that start threads."""
_ENVIRONMENT = MappingProxyType(
    {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/tmp", "TMPDIR": "/tmp", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}
)


@dataclass(frozen=True)
class Language:
    """One entry. Commands begin with a tool's name; ``file`` is what the source is called.

    ``sample`` reads an integer from standard input and prints its double. ``harness`` is a whole program with
    ``@program`` and ``@checks`` in it, ``check_line`` one check with ``@actual`` and ``@expected``, which exits with
    code 99 where they differ; empty where tests compare the output only.
    """

    name: str
    file: str
    run: str
    sample: str
    package: str
    """Distribution package (Debian's name where it has one) that brings the tools."""
    check: str = ""
    compile: str = ""
    harness: str = "@program\n@checks\n"
    check_line: str = ""
    limits: Limits = SMALL
    environment: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    """Further files that a command needs."""

    @property
    def tools(self) -> tuple[str, ...]:
        """Programs that must be installed; a command that begins with ``./`` is what the compiler has made."""
        commands = (self.check, self.compile, self.run)
        heads = [command.split()[0] for command in commands if command and not command.startswith("./")]
        return tuple(dict.fromkeys(heads))

    @property
    def missing_tools(self) -> tuple[str, ...]:
        return tuple(tool for tool in self.tools if find_tool(tool) is None)

    def with_tests(self, program: str, checks: Iterable[tuple[str, str]]) -> str:
        """A program that ends with code 99 unless each expression has its expected value, both source text."""
        if not self.check_line:
            raise StageError(f"sandbox: {self.name} has no test template; compare its output instead")
        lines = [
            self.check_line.replace("@actual", actual).replace("@expected", expected) for actual, expected in checks
        ]
        return self.harness.replace("@program", program).replace("@checks", "\n".join(lines))

    def job(self, source: str, *, stdin: str = "", expected_output: str | None = None) -> Job:
        """Static check, compile, run. StageError names what is not installed."""
        if self.missing_tools:
            raise StageError(
                f"sandbox: {self.name} needs {', '.join(self.missing_tools)}; install the package {self.package}"
            )
        if self.name == "python":  # the warm interpreter checks and runs it in one process
            step = Step("run", self.limits, python=source, stdin=stdin, environment=dict(_ENVIRONMENT), name=self.file)
            return Job((step,), expected_output=expected_output)
        environment = {**_ENVIRONMENT, **self.environment}
        steps = []
        if self.check:
            steps.append(Step("check", COMPILING, command=_command(self.check), environment=environment))
        if self.compile:
            steps.append(Step("compile", COMPILING, command=_command(self.compile), environment=environment))
        steps.append(Step("run", self.limits, command=_command(self.run), stdin=stdin, environment=environment))
        return Job(tuple(steps), {self.file: source, **self.files}, expected_output)


def _command(text: str) -> tuple[str, ...]:
    head, *rest = text.split()
    return (find_tool(head) or head, *(part.replace("%20", " ") for part in rest))


@cache
def languages() -> dict[str, Language]:
    """Name -> entry, those of the default installation first."""
    from components.sandbox.language_table import LANGUAGES
    from components.sandbox.language_table_more import MORE_LANGUAGES

    return {language.name: language for language in (*LANGUAGES, *MORE_LANGUAGES)}


def find_language(name: str) -> Language:
    """By name; StageError lists the known ones."""
    known = languages()
    if name not in known:
        raise StageError(f"sandbox: no language {name!r}; there are {', '.join(known)}")
    return known[name]


def language_of_file(file: Path) -> Language:
    """By the ending of a file's name; StageError where none has it."""
    for language in languages().values():
        if file.suffix and Path(language.file).suffix == file.suffix:
            return language
    endings = ", ".join(sorted(Path(language.file).suffix for language in languages().values()))
    raise StageError(f"{file}: no language has this ending; there are {endings}")


__all__ = ["COMPILING", "MANAGED", "SMALL", "Language", "find_language", "language_of_file", "languages"]
