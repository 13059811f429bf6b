"""``qwenforge sandbox``."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from flows.cli_options import JsonOption, show

sandbox_app = typer.Typer(
    help="Run code that nobody has read, in isolation, in nearly 50 languages.", no_args_is_help=True
)


@sandbox_app.command("doctor")
def sandbox_doctor(
    check: Annotated[bool, typer.Option(help="Run each language's sample program.")] = True,
    as_json: JsonOption = False,
) -> None:
    """What isolation this host offers, which languages run here, and which packages bring the others."""
    from flows.sandbox import doctor_command, print_doctor

    found = doctor_command(check)
    show(found, True) if as_json else print_doctor(found)


@sandbox_app.command("run")
def sandbox_run(
    file: Annotated[Path, typer.Argument(help="Program to run; its ending tells the language.", show_default=False)],
    language: Annotated[str, typer.Option(help="Its language, where the ending does not tell.")] = "",
    stdin: Annotated[Path | None, typer.Option(help="File that it reads as standard input.")] = None,
    timeout: Annotated[float | None, typer.Option(min=0.01, help="Seconds of wall clock.")] = None,
    memory_mb: Annotated[int | None, typer.Option(min=16, help="Megabytes, of all its processes together.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Check, compile and run one file in isolation. Exit code 1 unless it passed."""
    from flows.sandbox import run_file_command

    result = run_file_command(file, language=language, stdin=stdin, timeout=timeout, memory_mb=memory_mb)
    if as_json:
        show(result, True)
    else:
        sys.stdout.write(result["stdout"])
        sys.stderr.write(result["stderr"])
        print(
            f"{result['status']} ({result['language']}, {result['step']}, {result['seconds']:.3f} s)", file=sys.stderr
        )
    if result["status"] != "passed":
        raise typer.Exit(1)
