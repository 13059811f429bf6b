"""Commands that put data and claims to the test: factories, ablations, the judge, the claims of the report."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.cli_options import JsonOption, RecipeArgument, SetOption, show


def factories(
    recipe: RecipeArgument,
    output: Annotated[Path, typer.Option(help="New folder for the conversations.", show_default=False)],
    set_: SetOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show about ten samples, and what all records would take and cost.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write checked SFT conversations of the report's nine kinds, with evidence and acceptance rates."""
    from flows.factories import factories_command, print_factories, print_preview

    result = factories_command(recipe, set_ or [], output, dry=dry_run)
    if as_json:
        show(result, True)
    else:
        (print_preview if dry_run else print_factories)(result)


def conversations(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="JSONL, JSON or Parquet in OpenAI's, ShareGPT's or Alpaca's form, or a stage's artifact.",
            show_default=False,
        ),
    ],
    output: Annotated[Path | None, typer.Option(help="New JSONL file for what holds.")] = None,
    form: Annotated[
        Literal["messages", "sharegpt", "alpaca"], typer.Option("--format", help="Form of that file.")
    ] = "messages",
    as_json: JsonOption = False,
) -> None:
    """Check conversations record by record, say what is wrong with which, and write them in another tool's form."""
    from flows.conversations import conversations_command, print_conversations

    result = conversations_command(sources, output, form)
    show(result, True) if as_json else print_conversations(result)


def ablate(
    recipe: RecipeArgument = Path("recipes/pocket.toml"),
    first: Annotated[
        str, typer.Option(help="raw, rebalanced, or a corpus or mixture: digest, or folder of documents-*.parquet.")
    ] = "raw",
    second: Annotated[str, typer.Option(help="What is put beside it, of the same kinds.")] = "rebalanced",
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train the same small model on two mixtures at equal tokens; differences by domain with intervals."""
    from flows.ablation import ablate_command, print_ablation

    result = ablate_command(recipe, set_ or [], first, second)
    show(result, True) if as_json else print_ablation(result)


def ablate_factories(
    recipe: Annotated[Path, typer.Argument(help="Recipe whose finished base is fine-tuned.")] = Path(
        "recipes/pocket.toml"
    ),
    only: Annotated[list[str] | None, typer.Option(metavar="FACTORY", help="Only this one. Repeatable.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Say what would be trained, and for how long; no more.")] = False,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fine-tune with all nine SFT factories and without each, at equal tokens: what each is worth."""
    from flows.factory_ablation import ablate_factories_command, print_factory_ablation

    result = ablate_factories_command(recipe, set_ or [], only or [], plan_only=plan)
    show(result, True) if as_json else print_factory_ablation(result)


def judge(
    recipe: RecipeArgument = Path("recipes/pocket.toml"), set_: SetOption = None, as_json: JsonOption = False
) -> None:
    """What the quality judge is worth: agreement by language, known labels, drift, and against the heuristics."""
    from flows.judge import judge_command, print_judge

    result = judge_command(recipe, set_ or [])
    show(result, True) if as_json else print_judge(result)


def claims(
    recipe: Annotated[Path, typer.Argument(help="Recipe whose finished run the claims start from.")] = Path(
        "recipes/pocket.toml"
    ),
    only: Annotated[list[str] | None, typer.Option(metavar="ID", help="Only this claim. Repeatable.")] = None,
    seeds: Annotated[int, typer.Option(min=2, help="Repetitions of every claim.")] = 3,
    budget: Annotated[
        float | None,
        typer.Option(min=0, metavar="MINUTES", help="Begin nothing new after this long; no limit without."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for the page; under the home by default.")] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only say what is measured and what the rest will take.")
    ] = False,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put the claims of the report to the test at small scale: effects with intervals, verdicts, and a page."""
    from flows.claims import claims_command, plan_command, print_claims, print_plan

    if plan:
        rows = plan_command(recipe, set_ or [], only or [], seeds)
        show(rows, True) if as_json else print_plan(rows)
        return
    result = claims_command(recipe, set_ or [], only or [], seeds, budget, output)
    show(result, True) if as_json else print_claims(result)
