"""``qwenforge plan``: what a recipe will do and what it will take, by arithmetic alone (no torch)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.data.pool import available_workers
from components.serving.start import ModelConfig
from components.training.memory import training_memory
from flows.data_plan import COMMAND, CORES_PER_GPU, plan_data
from flows.pipelines import pipeline_of
from flows.recipe import AnyRecipe, Recipe, StartRecipe, StudyRecipe, load_recipe
from flows.resolve import resolve
from flows.start import locate, shape_of
from flows.terminal import count, duration, quantity, stdout, table
from flows.workload import PROMPT, workloads
from infra.hardware import accelerator, match_accelerator
from infra.settings import load_settings
from infra.store import open_store

Plan = dict[str, Any]


def make_plan(
    path: Path, overrides: Sequence[str] = (), *, hardware: str | None = None, gpus: int | None = None,
    mfu: float | None = None, engine: str | None = None, recompute: bool = True, cores: int | None = None,
) -> Plan:  # fmt: skip
    """The plan of a recipe file as plain JSON values: sizes in bytes, time in hours, cost in US dollars."""
    settings = load_settings()
    store = open_store(settings)
    recipe = locate(load_recipe(path, overrides), settings, store)
    model = model_of(recipe)
    work = {entry.stage: entry for entry in workloads(recipe, model)}
    if hardware is None:
        laptop = accelerator("cpu-2")
        seconds = sum(entry.flops for entry in work.values()) / (laptop.peak_flops * laptop.utilisation)
        hardware = "cpu-2" if seconds < 24 * 3600 else "h100-sxm"
    device = match_accelerator(hardware) or accelerator(hardware)
    gpus = gpus or (1 if device.kind == "cpu" else 8)
    engine = engine or ("torch" if gpus == 1 else "zero3")
    mfu = mfu or device.utilisation
    cores = cores or (available_workers() if device.kind == "cpu" else CORES_PER_GPU * gpus)
    rows = resolve(pipeline_of(recipe), recipe, recipe.seed, store, verify=False)
    stages = []
    for row in rows:
        line: Plan = {"stage": row.stage.id, "state": "cached" if row.digest else "to do", "artifact": row.digest}
        if entry := work.get(row.stage.id):
            hours = entry.flops / (device.peak_flops * mfu * gpus) / 3600
            line |= {
                "trained_tokens": entry.trained_tokens,
                "generated_tokens": entry.generated_tokens,
                "sequence_length": entry.sequence_length,
                "flops": entry.flops,
                "upper_bound": entry.bound,
                "hours": hours,
                "cost": hours * gpus * device.estimated_price_per_hour,
            }
        stages.append(line)
    return {
        "recipe": recipe.name,
        "seed": recipe.seed,
        "model": model_facts(model),
        "hardware": {"name": device.name, "count": gpus, "mfu": mfu, "memory_bytes": device.memory_bytes},
        "memory": memory_facts(recipe, model, engine, gpus, recompute),
        "stages": stages,
        **({"data": plan_data(recipe, cores)} if isinstance(recipe, Recipe) else {}),
        "total": {
            name: sum(line.get(name, 0) for line in stages) for name in ("trained_tokens", "flops", "hours", "cost")
        },
    }


def model_of(recipe: AnyRecipe) -> ModelConfig:
    """The shape that a recipe trains: its own, its largest, or the one of the checkpoint that it starts from."""
    if isinstance(recipe, StartRecipe):
        return shape_of(recipe.start)
    if isinstance(recipe, StudyRecipe):  # the largest
        return recipe.study.dense.held_out.model(recipe.tokenizer.vocab_size, recipe.study.sequence_length)
    assert isinstance(recipe, Recipe)
    return recipe.pretrain.model


def model_facts(model: ModelConfig) -> Plan:
    """Parameter counts."""
    return {
        "parameters": model.num_parameters(),
        "active_parameters": model.num_active_parameters(),
        "non_embedding_parameters": model.num_non_embedding_parameters(),
    }


def memory_facts(recipe: AnyRecipe, model: ModelConfig, engine: str, ranks: int, recompute: bool) -> Plan:
    """Bytes on one rank with the largest micro-batch of its stages (formulas: ``components.training.memory``)."""
    tokens = most_tokens(recipe)
    memory = training_memory(model, engine=engine, ranks=ranks, tokens=tokens, recompute=recompute)
    return {
        "engine": engine,
        "ranks": ranks,
        "tokens": tokens,
        "recompute": recompute,
        "parameters": memory.parameters,
        "gradients": memory.gradients,
        "optimizer": memory.optimizer,
        "activations": memory.activations,
        "total": memory.total,
    }


def most_tokens(recipe: AnyRecipe) -> int:
    """Tokens of the largest micro-batch, which holds at least one whole sequence; of a start, those of a batch."""
    if isinstance(recipe, Recipe):
        return max(recipe.pretrain.micro_batch_tokens, recipe.extend.sequence_length)
    if isinstance(recipe, StudyRecipe):
        return max(*recipe.study.batch_tokens, recipe.study.default_batch_tokens)
    assert isinstance(recipe, StartRecipe)
    most = [stage.batch_size * stage.sequence_length for stage in (recipe.sft, recipe.dpo, recipe.reward) if stage]
    if grpo := recipe.grpo:
        answers = grpo.queries_per_rollout * grpo.group_size // grpo.updates_per_rollout
        most.append(max(grpo.sequence_length, answers * (PROMPT + grpo.max_new_tokens)))
    return max(most, default=1)


def print_plan(plan: Plan) -> None:
    """The plan for people."""
    console = stdout()
    model, memory, hardware, total = plan["model"], plan["memory"], plan["hardware"], plan["total"]
    console.print(
        f"[bold]{plan['recipe']}[/]  {count(model['parameters'])} parameters, "
        f"{count(model['active_parameters'])} active a token, "
        f"{count(model['non_embedding_parameters'])} without embeddings"
    )
    rows = []
    for line in plan["stages"]:
        cells = [line["stage"], line["state"]]
        if "flops" in line:
            most = "≤ " if line["upper_bound"] else ""
            tokens = line["trained_tokens"] or line["generated_tokens"]
            cells += [
                f"{most}{count(tokens)}", f"{line['sequence_length']:,}", f"{most}{quantity(line['flops'])}",
                duration(line["hours"] * 3600), f"${line['cost']:,.2f}",
            ]  # fmt: skip
        rows.append(cells + [""] * (7 - len(cells)))
    rows.append(
        ["total", "", count(total["trained_tokens"]), "", quantity(total["flops"]),
         duration(total["hours"] * 3600), f"${total['cost']:,.2f}"]
    )  # fmt: skip
    title = f"on {hardware['count']} x {hardware['name']} at {hardware['mfu']:.0%} of their peak"
    headers = {
        "stage": "left", "state": "left", "tokens": "right", "context": "right", "FLOPs": "right", "time": "right",
        "cost": "right",
    }  # fmt: skip
    console.print(table(title, headers, rows))
    fits = "fits" if memory["total"] <= hardware["memory_bytes"] else "does not fit"
    parts = ", ".join(f"{part} {gib(memory[part])}" for part in ("parameters", "gradients", "optimizer", "activations"))
    checkpointing = ", activations recomputed" if memory["recompute"] else ""
    console.print(
        f"memory a rank with {memory['engine']} on {memory['ranks']}, {memory['tokens']:,} tokens at a time"
        f"{checkpointing}: {gib(memory['total'])} ({parts}); {fits} in {gib(hardware['memory_bytes'])}"
    )
    if "data" in plan:
        print_data_plan(plan["data"])


def print_data_plan(data: Plan | None) -> None:
    """The data stages for people."""
    console = stdout()
    if data is None:
        console.print(f"data stages: no rates were measured on this checkout yet; {COMMAND}")
        return
    rows = [
        [row["stage"], quantity(row["bytes"], "B"), f"{row['core_hours']:,.3g}", duration(row["hours"] * 3600)]
        for row in data["stages"]
    ]
    rows.append(["total", "", f"{data['core_hours']:,.3g}", duration(data["hours"] * 3600)])
    title = f"data for {count(data['tokens'])} tokens, on {data['cores']:,} cores"
    headers = {"stage": "left", "text": "right", "core hours": "right", "time": "right"}
    console.print(table(title, headers, rows))
    parts = ", ".join(f"{name} {quantity(size, 'B')}" for name, size in data["storage"].items())
    measured = data["measured"]
    console.print(
        f"storage: {quantity(data['storage_bytes'], 'B')} ({parts}); from {quantity(data['extracted_bytes'], 'B')} of "
        f"extracted text, of which as much is left as of the web's; rates of {measured['cpu']}, {measured['file']}"
    )


def gib(size: float) -> str:
    """Bytes in GiB."""
    return f"{size / 1024**3:,.2f} GiB"


__all__ = ["Plan", "gib", "make_plan", "print_data_plan", "print_plan"]
