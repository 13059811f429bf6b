"""The command line ``qwenforge``. Exit codes: 0 done, 2 bad input, 1 a stage failed, 130 stopped.

Each command imports what it needs when it is called, so that ``--help`` answers at once.
"""

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.cli_options import JsonOption, PromoteOption, RecipeArgument, SetOption, show
from flows.people_cli import reviews_app, users_app
from flows.stack_cli import deploy, stack_app, watch

app = typer.Typer(
    help="One recipe file through every stage of the Qwen2.5 technical report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
artifacts_app = typer.Typer(help="Look at, check and clean up the artifact store.", no_args_is_help=True)
app.add_typer(artifacts_app, name="artifacts")
sandbox_app = typer.Typer(
    help="Run code that nobody has read, in isolation, in nearly 50 languages.", no_args_is_help=True
)
app.add_typer(sandbox_app, name="sandbox")
app.add_typer(stack_app, name="stack")
app.add_typer(reviews_app, name="reviews")
app.add_typer(users_app, name="users")
app.command()(deploy)
app.command()(watch)

CheckpointArgument = Annotated[
    str,
    typer.Argument(
        help="Alias (base, long, sft, dpo, rl or an imported one), artifact digest, or folder in Hugging Face layout.",
        show_default=False,
    ),
]


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


@app.command("eval")
def evaluate(
    checkpoint: CheckpointArgument,
    tasks: Annotated[
        str,
        typer.Option(
            help="Benchmarks instead, by commas: mmlu, human_eval, ifeval, bfcl_simple, reasoning, python_reference, "
            "passkey, ruler (or one of its tasks), lm-eval:NAME, or a task file of lm-eval."
        ),
    ] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="Questions of each task.")] = None,
    shots: Annotated[int, typer.Option(min=0, help="Examples before each question.")] = 0,
    chat: Annotated[
        bool | None, typer.Option(help="In the conversation template; where the checkpoint has one, by default.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Answers to each question, for pass@k.")] = 1,
    temperature: Annotated[float, typer.Option(min=0.0)] = 0.0,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="The task's own by default.")] = None,
    lengths: Annotated[
        str,
        typer.Option(
            help="Tokens of the texts of passkey and ruler, by commas; the model's own, 2 and 4 times it by default."
        ),
    ] = "",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    data: Annotated[Path | None, typer.Option(help="Folder with NAME.jsonl of your own.")] = None,
    against: Annotated[str, typer.Option(help="Another checkpoint: paired differences, corrected p-values.")] = "",
    output: Annotated[Path | None, typer.Option(help="Folder for items.parquet and answers.json.")] = None,
    recipe: Annotated[Path, typer.Option(help="Without --tasks: whose held-out data and settings are used.")] = Path(
        "recipes/pocket.toml"
    ),
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a checkpoint on a recipe's held-out data, or on benchmarks (--tasks)."""
    if tasks:
        from flows.benchmarks import benchmarks_command, print_benchmarks

        found = benchmarks_command(
            checkpoint, tasks, against=against, output=output, limit=limit, shots=shots, chat=chat, samples=samples,
            temperature=temperature, max_new_tokens=max_new_tokens, seed=seed, folder=data, lengths=lengths,
        )  # fmt: skip
        show(found, True) if as_json else print_benchmarks(found)
        return
    from flows.checkpoints import evaluate_command, print_evaluation

    result = evaluate_command(checkpoint, recipe, set_ or [])
    show(result, True) if as_json else print_evaluation(result)


@app.command()
def arena(
    first: CheckpointArgument,
    second: Annotated[str, typer.Argument(help="The baseline that it is put beside.", show_default=False)],
    judge: Annotated[
        str,
        typer.Option(
            help="A reward model (alias, digest, folder), or the address of an OpenAI-compatible server.",
            show_default=False,
        ),
    ],
    judge_model: Annotated[str, typer.Option(help="Which model of that server judges.")] = "",
    questions: Annotated[
        Path | None, typer.Option(help="JSONL as Arena-Hard publishes it; IFEval's prompts by default.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Questions.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Of an answer.")] = 512,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
    output: Annotated[Path | None, typer.Option(help="Folder for the answers with their verdicts.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Have two checkpoints' answers judged in pairs, as Arena-Hard does: both orders, style taken out, intervals."""
    from flows.arena import arena_command, print_arena

    found = arena_command(
        first, second, judge=judge, model=judge_model, questions=questions, limit=limit,
        max_new_tokens=max_new_tokens, seed=seed, output=output,
    )  # fmt: skip
    show(found, True) if as_json else print_arena(found)


@app.command()
def promote(
    checkpoint: CheckpointArgument,
    alias: Annotated[str, typer.Argument(help="What it shall be called from now on.", show_default=False)],
    override: Annotated[
        str, typer.Option(metavar="REASON", help="Also where it is worse; the reason is kept in the audit.")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Move an alias to a checkpoint, unless a fixed suite finds it worse than the one that the alias means now."""
    from flows.promotion import print_promotion, promote_command

    done = promote_command(checkpoint, alias, override=override)
    show(done, True) if as_json else print_promotion(done)


@app.command()
def chat(
    checkpoint: CheckpointArgument = "rl",
    system: Annotated[str, typer.Option(help="System prompt.")] = "You are a helpful assistant.",
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token.")] = 0.0,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 256,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Talk to a checkpoint. An empty line or Ctrl-D ends it."""
    from flows.chat import chat_command

    chat_command(checkpoint, system=system, temperature=temperature, max_new_tokens=max_new_tokens, seed=seed)


@app.command()
def serve(
    checkpoint: CheckpointArgument = "rl",
    host: Annotated[str, typer.Option(help="127.0.0.1 keeps it to this machine.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    max_running: Annotated[int, typer.Option(min=1, help="Answers written at once.")] = 64,
    max_queue: Annotated[int, typer.Option(min=0, help="Answers that may wait; more get 429.")] = 256,
    max_output: Annotated[int, typer.Option(min=1, help="Tokens of one answer.")] = 8192,
    drain_seconds: Annotated[int, typer.Option(min=0, help="How long answers may go on after SIGTERM.")] = 60,
    watch_seconds: Annotated[float, typer.Option(min=0.1, help="How often an alias is looked up.")] = 2.0,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the checkpoint is there.")] = False,
) -> None:
    """Serve a checkpoint over OpenAI's HTTP API, until SIGTERM or Ctrl-C. Keys: QWENFORGE_API_KEYS."""
    from flows.serve_command import serve_command

    serve_command(
        checkpoint, host, port, wait=wait, max_running=max_running, max_queue=max_queue, max_output=max_output,
        drain_seconds=drain_seconds, watch_seconds=watch_seconds,
    )  # fmt: skip


@app.command("import")
def import_(
    source: Annotated[
        Path,
        typer.Argument(
            help="Folder in Hugging Face layout, GGUF file, or a file of recipes/checkpoints.", show_default=False
        ),
    ],
    dtype: Annotated[
        Literal["float32", "float16", "bfloat16"] | None,
        typer.Option(help="Type of the weights; their own by default."),
    ] = None,
    alias: Annotated[str, typer.Option(help="What to call it; from the name of the source by default.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Take a checkpoint into the store: Qwen2, Qwen2-MoE, or a Llama of that shape."""
    from flows.conversion import import_command, imported_line

    done = import_command(source, dtype=dtype, alias=alias)
    show(done, True) if as_json else print(imported_line(done))


@app.command()
def export(
    checkpoint: CheckpointArgument,
    target: Annotated[Path, typer.Argument(help="New folder, or new file for GGUF.", show_default=False)],
    format_: Annotated[
        Literal["hf", "gguf"], typer.Option("--format", help="Hugging Face folder, or GGUF file.")
    ] = "hf",
    quantize: Annotated[
        Literal["int8", "int4"] | None,
        typer.Option(help="Quantise the weights, and print the perplexity before and after."),
    ] = None,
    dtype: Annotated[
        Literal["float32", "float16", "bfloat16"] | None,
        typer.Option(help="Type of the weights; their own by default."),
    ] = None,
    check: Annotated[
        bool, typer.Option(help="Read back what was written and measure it; takes memory for two models.")
    ] = True,
    text: Annotated[Path | None, typer.Option(help="Text for the perplexity; the Python reference by default.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a checkpoint as others read it, and prove that what was written is the checkpoint."""
    from flows.conversion import export_command, exported_line

    done = export_command(
        checkpoint, target, format=format_, quantize=quantize, dtype=dtype, check=check, text=text
    )  # fmt: skip
    show(done, True) if as_json else print(exported_line(done))


@app.command()
def sparse(
    folder: Annotated[Path, typer.Argument(help="Model folder, as export writes it.", show_default=False)],
    text: Annotated[Path, typer.Argument(help="Text like the long prompts that matter.", show_default=False)],
    tokens: Annotated[int, typer.Option(min=128, help="Length of the sample.")] = 8192,
    recall: Annotated[float, typer.Option(min=0.0, max=1.0, help="Attention that every head should keep.")] = 0.95,
    read: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of the pairs that may be read.")] = 1.0,
    min_tokens: Annotated[int, typer.Option(min=1, help="Shorter prompts are read as a whole.")] = 4096,
    as_json: JsonOption = False,
) -> None:
    """Let a model folder read long prompts sparsely: search what each head needs, keep it with the weights."""
    from flows.sparse_command import print_sparse, sparse_command

    found = sparse_command(folder, text, tokens=tokens, recall=recall, read=read, min_tokens=min_tokens)
    show(found, True) if as_json else print_sparse(found)


@app.command()
def dashboard(
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8501,
    address: Annotated[str, typer.Option(help="127.0.0.1 keeps it to this machine.")] = "127.0.0.1",
) -> None:
    """Open the dashboard on the runs of this home, until Ctrl-C."""
    from flows.dashboard_command import dashboard_command

    dashboard_command(address, port)


@app.command()
def factories(
    recipe: RecipeArgument,
    output: Annotated[Path, typer.Option(help="New folder for the conversations.", show_default=False)],
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write checked SFT conversations of the report's nine kinds, with evidence and acceptance rates."""
    from flows.factories import factories_command, print_factories

    summary = factories_command(recipe, set_ or [], output)
    show(summary, True) if as_json else print_factories(summary)


@app.command()
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


@app.command()
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


@app.command("ablate-factories")
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


@app.command()
def judge(
    recipe: RecipeArgument = Path("recipes/pocket.toml"), set_: SetOption = None, as_json: JsonOption = False
) -> None:
    """What the quality judge is worth: agreement by language, known labels, drift, and against the heuristics."""
    from flows.judge import judge_command, print_judge

    result = judge_command(recipe, set_ or [])
    show(result, True) if as_json else print_judge(result)


@app.command()
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
