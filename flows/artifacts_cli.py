"""``qwenforge artifacts``: the store."""

from typing import Annotated

import typer

from flows.cli_options import JsonOption, show

artifacts_app = typer.Typer(help="Look at, check and clean up the artifact store.", no_args_is_help=True)


@artifacts_app.command("ls")
def artifacts_ls(
    kind: Annotated[str, typer.Option(help="Only this kind, such as checkpoint.")] = "", as_json: JsonOption = False
) -> None:
    """All artifacts of the store, oldest first."""
    from flows.artifacts import list_artifacts, print_artifacts

    rows = list_artifacts(kind)
    show(rows, True) if as_json else print_artifacts(rows)


@artifacts_app.command("show")
def artifacts_show(artifact: Annotated[str, typer.Argument(help="Digest (its beginning is enough) or alias.")]) -> None:
    """The manifest of one artifact: what made it, from what, its files and its summary."""
    from flows.artifacts import show_artifact

    show(show_artifact(artifact), True)


@artifacts_app.command("diff")
def artifacts_diff(
    first: Annotated[str, typer.Argument(help="Mixture or corpus: digest (its beginning is enough).")],
    second: Annotated[str, typer.Argument(help="What is put beside it.")],
    as_json: JsonOption = False,
) -> None:
    """Two mixtures beside each other: shares, factors, and documents in and out, by domain."""
    from flows.artifacts import diff_artifacts, print_diff

    found = diff_artifacts(first, second)
    show(found, True) if as_json else print_diff(found)


@artifacts_app.command("verify")
def artifacts_verify(
    artifact: Annotated[str, typer.Argument(help="Digest or alias; all artifacts by default.")] = "",
) -> None:
    """Read every stored byte again and compare it with the manifest. Exit code 1 if anything is damaged."""
    from flows.artifacts import verify_artifacts

    if not verify_artifacts(artifact):
        raise typer.Exit(1)


@artifacts_app.command("gc")
def artifacts_gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Delete artifacts that no completed run and no alias leads to, and what killed runs have left."""
    from flows.artifacts import collect_garbage

    collect_garbage(dry_run=dry_run)
