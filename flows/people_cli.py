"""The commands about people: ``qwenforge reviews`` (verdicts on pairs), ``qwenforge users`` (of the dashboard)."""

from pathlib import Path
from typing import Annotated, Literal

import typer

reviews_app = typer.Typer(
    help="Human verdicts on preference pairs: queue pairs, count verdicts, export them for a recipe.",
    no_args_is_help=True,
)
users_app = typer.Typer(help="Who may log in to the dashboard, and as what.", no_args_is_help=True)

UserArgument = Annotated[str, typer.Argument(help="Name to log in with.", show_default=False)]


@reviews_app.command("queue")
def reviews_queue(
    run: Annotated[str, typer.Argument(help="Run whose pairs are to be judged; the latest by default.")] = "latest",
    limit: Annotated[int, typer.Option(min=1, help="Pairs, spread evenly over the task families.")] = 200,
) -> None:
    """Put a run's preference pairs into the review queue; pairs that are there already stay."""
    from flows.reviews import queue_command

    added, total = queue_command(run, limit)
    print(f"{added} pairs queued; {total} are in the queue. Judge them on the dashboard's Preferences page")


@reviews_app.command("status")
def reviews_status() -> None:
    """Pairs, verdicts and the labellers' agreement (Cohen's kappa)."""
    from flows.reviews import print_status

    print_status()


@reviews_app.command("export")
def reviews_export(
    target: Annotated[Path, typer.Argument(help="File to write.", show_default=False)],
) -> None:
    """Write what labellers agree on as a file for ``[pairs] reviews``; divided votes are left out."""
    from flows.reviews import export_command

    decided, divided = export_command(target)
    print(f'{decided} verdicts written, {divided} divided left out. In a recipe: [pairs] reviews = "{target}"')


@users_app.command("set")
def users_set(
    name: UserArgument,
    role: Annotated[
        Literal["viewer", "labeller", "operator"],
        typer.Option(help="Look; also judge pairs; also promote checkpoints.", show_default=False),
    ],
    password: Annotated[bool, typer.Option(help="Set a (new) password: QWENFORGE_PASSWORD, or asked for.")] = True,
) -> None:
    """Add a user, or change one's role or password."""
    from flows.users import set_command

    set_command(name, role, password)
    print(f"{name} is {role}")


@users_app.command("rm")
def users_rm(name: UserArgument) -> None:
    """Remove a user."""
    from flows.users import remove_command

    remove_command(name)
    print(f"{name} is removed")


@users_app.command("ls")
def users_ls() -> None:
    """All users with their roles."""
    from flows.users import print_users

    print_users()
