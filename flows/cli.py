"""The command line ``qwenforge``. Exit codes: 0 done, 2 bad input, 1 a stage failed, 130 stopped.

Each command imports what it needs when it is called, so that ``--help`` answers at once.
"""

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from flows import checkpoint_cli, study_cli
from flows.artifacts_cli import artifacts_app
from flows.cli_options import JsonOption, PromoteOption, RecipeArgument, SetOption, show
from flows.people_cli import reviews_app, users_app
from flows.sandbox_cli import sandbox_app
from flows.stack_cli import deploy, stack_app, watch

app = typer.Typer(
    help="One recipe file through every stage of the Qwen2.5 technical report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(artifacts_app, name="artifacts")
app.add_typer(sandbox_app, name="sandbox")
app.add_typer(stack_app, name="stack")
app.add_typer(reviews_app, name="reviews")
app.add_typer(users_app, name="users")
app.command()(deploy)
app.command()(watch)


@app.command()
def run(
    recipe: RecipeArgument,
    until: Annotated[str, typer.Option(metavar="STAGE", help="Stop after this stage.")] = "",
    from_: Annotated[str, typer.Option("--from", metavar="STAGE", help="Redo this stage and all that follow.")] = "",
    set_: SetOption = None,
    fresh: Annotated[bool, typer.Option(help="Redo every stage, whatever is cached.")] = False,
    engine: Annotated[
        Literal["torch", "deepspeed"] | None, typer.Option(help="What trains: torch in one process, by default.")
    ] = None,
    world_size: Annotated[
        int | None, typer.Option(min=1, help="deepspeed: processes; the host file's, or all GPUs, by default.")
    ] = None,
    zero_stage: Annotated[int | None, typer.Option(min=1, max=3, help="deepspeed: ZeRO 1, 2 or 3.")] = None,
    offload: Annotated[bool | None, typer.Option(help="deepspeed: optimizer state in host memory.")] = None,
    sequence_parallel: Annotated[
        int | None, typer.Option(min=1, help="deepspeed: ranks that share every window of text (Ulysses).")
    ] = None,
    expert_parallel: Annotated[
        int | None, typer.Option(min=1, help="deepspeed: ranks that share the experts of every layer.")
    ] = None,
    host_file: Annotated[Path | None, typer.Option(help="deepspeed: lines of 'host slots=N'.")] = None,
    data_engine: Annotated[
        Literal["processes", "ray"] | None, typer.Option(help="What maps over documents: processes, by default.")
    ] = None,
    promote: PromoteOption = "",
    as_json: JsonOption = False,
) -> None:
    """Carry a recipe through its stages; what is finished already is not repeated."""
    from flows.run_command import run_command

    place = {
        "engine": engine, "world_size": world_size, "zero_stage": zero_stage, "offload": offload,
        "sequence_parallel": sequence_parallel, "expert_parallel": expert_parallel, "host_file": host_file,
        "data_engine": data_engine,
    }  # fmt: skip
    chosen = {name: value for name, value in place.items() if value is not None}
    result = run_command(recipe, set_ or [], until=until, from_=from_, fresh=fresh, place=chosen, promote=promote)
    show(result, as_json)


@app.command()
def plan(
    recipe: RecipeArgument,
    set_: SetOption = None,
    hardware: Annotated[
        str | None, typer.Option(help="h100-sxm, a100-80gb, cpu-2, ...; two CPU cores where a day of them is enough.")
    ] = None,
    gpus: Annotated[int | None, typer.Option(min=1, help="How many of them.")] = None,
    mfu: Annotated[
        float | None,
        typer.Option(min=0.01, max=1.0, help="Share of the peak FLOPs reached; the device's own by default."),
    ] = None,
    engine: Annotated[
        Literal["torch", "zero0", "zero1", "zero2", "zero3"] | None,
        typer.Option(help="Engine whose memory is shown: torch on one device, else ZeRO 3 by default."),
    ] = None,
    cores: Annotated[
        int | None, typer.Option(min=1, help="Processor cores for the data stages; 16 a GPU by default.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """What a recipe will do: stages, tokens, parameters, FLOPs, memory a rank, hours and cost, what is cached."""
    from flows.plan import make_plan, print_plan

    made = make_plan(recipe, set_ or [], hardware=hardware, gpus=gpus, mfu=mfu, engine=engine, cores=cores)
    show(made, True) if as_json else print_plan(made)


@app.command()
def report(
    run: Annotated[str, typer.Argument(help="Run id (its beginning is enough); the latest by default.")] = "latest",
    output: Annotated[Path | None, typer.Option(help="Folder to write to.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the report card of a run as HTML and Markdown, with what each stage has cost."""
    from flows.report import report_command

    written = report_command(run, output)
    show(written, True) if as_json else print(written["html"], written["markdown"], sep="\n")


app.command("eval")(checkpoint_cli.evaluate)
app.command()(checkpoint_cli.arena)
app.command()(checkpoint_cli.promote)
app.command()(checkpoint_cli.chat)
app.command()(checkpoint_cli.serve)
app.command("import")(checkpoint_cli.import_)
app.command()(checkpoint_cli.export)
app.command()(checkpoint_cli.sparse)


@app.command()
def dashboard(
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8501,
    address: Annotated[str, typer.Option(help="127.0.0.1 keeps it to this machine.")] = "127.0.0.1",
) -> None:
    """Open the dashboard on the runs of this home, until Ctrl-C."""
    from flows.dashboard_command import dashboard_command

    dashboard_command(address, port)


app.command()(study_cli.factories)
app.command()(study_cli.conversations)
app.command()(study_cli.ablate)
app.command("ablate-factories")(study_cli.ablate_factories)
app.command()(study_cli.judge)
app.command()(study_cli.claims)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def bench(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Which one; all are listed without it.")] = "",
) -> None:
    """Measure against peers on this machine. What follows the name goes to the benchmark, --help too."""
    from flows.bench import bench_command, benchmarks

    if name and not name.startswith("-"):
        raise typer.Exit(bench_command(name, context.args))
    for known, claim in benchmarks().items():
        print(f"{known}: {claim}")


def main() -> None:
    """Run the command line; the one place where errors become a message and an exit code."""
    if os.environ.get("QWENFORGE_DEBUG"):
        app()
        return
    from flows.errors import exit_code, message

    try:
        app()
    except BrokenPipeError:  # | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        print(message(error), file=sys.stderr)
        sys.exit(exit_code(error))


if __name__ == "__main__":
    main()
