"""The commands about the stack: ``qwenforge deploy``, ``watch`` and ``stack``."""

from typing import Annotated

import typer

from flows.cli_options import JsonOption, PromoteOption, RecipeArgument, SetOption, show

stack_app = typer.Typer(
    help="Postgres, S3, MLflow, Prefect with a worker, dashboard and model API as processes of this machine.",
    no_args_is_help=True,
)


def deploy(
    recipe: RecipeArgument,
    cron: Annotated[str, typer.Option(help="When to run, in UTC: '0 3 * * *' is every day at 3.")] = "",
    interval: Annotated[str, typer.Option(help="Or how often: 90m, 6h, 1d.")] = "",
    watch: Annotated[
        str, typer.Option(metavar="PREFIX", help="And whenever data arrives there: s3://bucket/prefix or a folder.")
    ] = "",
    pool: Annotated[
        str, typer.Option(help="Prefect's work pool: that of the stack by default; docker and kubernetes are made.")
    ] = "qwenforge",
    accelerators: Annotated[
        int | None,
        typer.Option(min=0, help="GPUs of a container; stages of all runs that compute on one at once. 0: no limit."),
    ] = None,
    notify: Annotated[
        list[str] | None,
        typer.Option(metavar="TYPE/NAME", help="Prefect block that is told of failures: slack-webhook/x. Repeatable."),
    ] = None,
    promote: PromoteOption = "",
    until: Annotated[str, typer.Option(metavar="STAGE", help="Stop after this stage.")] = "",
    from_: Annotated[str, typer.Option("--from", metavar="STAGE", help="Redo this stage and all that follow.")] = "",
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Register a recipe with Prefect, to be run by its worker: on a schedule, from its UI or through its API."""
    from flows.deploy import deploy_command, print_deployment

    made = deploy_command(
        recipe, set_ or [], until=until, from_=from_, cron=cron, interval=interval, watch=watch, pool=pool,
        accelerators=accelerators, notify=notify or [], promote=promote,
    )  # fmt: skip
    show(made, True) if as_json else print_deployment(made)


def watch(
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 10.0,
    settle: Annotated[float, typer.Option(min=0.0, help="Seconds that nothing may have changed.")] = 30.0,
) -> None:
    """Start what is deployed with --watch when data arrives, until Ctrl-C. The stack has one running."""
    from flows.watch import watch_command

    watch_command(every, settle)


@stack_app.command("up")
def stack_up(
    serve: Annotated[
        str | None, typer.Option(help="Checkpoint of the model API: an alias (rl at first), a digest or a folder.")
    ] = None,
    free_ports: Annotated[
        bool, typer.Option("--free-ports", help="Any free ports; the usual ones, where free, by default.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Start all services, wait until they are healthy, and print their addresses."""
    from flows.stack_command import print_stack, stack_up

    found = stack_up(serve, free_ports)
    show(found, True) if as_json else print_stack(found)


@stack_app.command("down")
def stack_down(
    volumes: Annotated[bool, typer.Option("--volumes", help="Delete databases, artifacts and secrets too.")] = False,
) -> None:
    """Stop all services in order; their data stays."""
    from flows.stack_command import stack_down

    stack_down(volumes)


@stack_app.command("status")
def stack_status(as_json: JsonOption = False) -> None:
    """How every service is. Exit code 1 unless all are healthy."""
    from flows.stack_command import print_stack, stack_status

    found = stack_status()
    show(found, True) if as_json else print_stack(found)
    if not found["healthy"]:
        raise typer.Exit(1)
