"""``qwenforge sandbox``: which languages can run here, and one file in isolation."""

from pathlib import Path
from typing import Any

from flows.errors import UsageError


def doctor_command(check: bool) -> dict[str, Any]:
    """Isolation of this host and, for each language, what is missing; with ``check`` its sample program is run."""
    from components.sandbox.isolation import available_isolation
    from components.sandbox.languages import languages
    from components.sandbox.pool import SandboxPool
    from components.sandbox.run import program_job

    isolation = available_isolation()
    rows: list[dict[str, Any]] = [
        {"language": one.name, "missing": list(one.missing_tools), "package": one.package, "status": ""}
        for one in languages().values()
    ]
    if check and isolation != "limits":
        present = [row for row in rows if not row["missing"]]
        with SandboxPool() as pool:
            samples = (
                program_job(row["language"], languages()[row["language"]].sample, stdin="21\n", expected_output="42")
                for row in present
            )
            for row, result in zip(present, pool.map(samples), strict=True):
                row["status"], row["seconds"] = result.status, round(result.seconds, 3)
    return {"isolation": isolation, "languages": rows}


def print_doctor(found: dict[str, Any]) -> None:
    """One line a language; the packages that would bring the missing ones."""
    from flows.terminal import stdout, table

    advice = "  (model-written code is refused: install bubblewrap)" if found["isolation"] == "limits" else ""
    rows = [
        [row["language"], f"missing {', '.join(row['missing'])}" if row["missing"] else row["status"] or "found",
         f"{row['seconds']:.2f} s" if "seconds" in row else "", row["package"] if row["missing"] else ""]
        for row in found["languages"]
    ]  # fmt: skip
    console = stdout()
    console.print(f"isolation: {found['isolation']}{advice}")
    columns = {"language": "left", "toolchain": "left", "sample": "right", "install": "left"}
    console.print(table("", columns, rows))
    ready = sum(not row["missing"] for row in found["languages"])
    console.print(f"{ready} of {len(found['languages'])} languages can run here")


def run_file_command(
    file: Path, *, language: str, stdin: Path | None, timeout: float | None, memory_mb: int | None
) -> dict[str, Any]:
    """Run one file in isolation and say how it ended."""
    from dataclasses import asdict

    from components.sandbox.languages import language_of_file
    from components.sandbox.run import run_program
    from components.stage import StageError

    try:
        source = file.read_text(encoding="utf-8")
        text = stdin.read_text(encoding="utf-8") if stdin else ""
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file if not stdin else f'{file} or {stdin}'}: cannot be read: {error}") from None
    try:
        name = language or language_of_file(file).name
        result = run_program(name, source, stdin=text, timeout=timeout, memory_mb=memory_mb)
    except StageError as error:
        raise UsageError(str(error)) from None
    return {"language": name, **asdict(result)}


__all__ = ["doctor_command", "print_doctor", "run_file_command"]
