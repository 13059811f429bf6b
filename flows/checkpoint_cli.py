"""Commands on checkpoints: measure, compare, promote, talk to, serve, convert."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.cli_options import JsonOption, SetOption, show

CheckpointArgument = Annotated[
    str,
    typer.Argument(
        help="Alias (base, long, sft, dpo, rl or an imported one), artifact digest, or folder in Hugging Face layout.",
        show_default=False,
    ),
]


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
