"""What several modules of the command line share."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

RecipeArgument = Annotated[Path, typer.Argument(help="Recipe file, such as recipes/pocket.toml.", show_default=False)]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one value of the recipe, e.g. sft.epochs=2. Repeatable."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object for programs.")]
PromoteOption = Annotated[
    str, typer.Option(metavar="ALIAS", help="Promote the last checkpoint to this alias, through the gate.")
]


def show(value: Any, as_json: bool) -> None:
    """Results for programs go to stdout as one JSON value."""
    if as_json:
        print(json.dumps(value, indent=1, ensure_ascii=False))
