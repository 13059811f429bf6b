"""``qwenforge ablate-factories``: SFT with all nine factories and with each left out, at equal tokens.

Everything that is written, trained and measured is an artifact of the store: a killed command goes on where it was,
inside a training too, and a finished one only prints its table again.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.sft.factories.ablation import (
    SCORES,
    ComposeConfig,
    FactoryAblationConfig,
    MeasureConfig,
    PoolsConfig,
    compare,
    compose,
    measure,
    write_pools,
)
from components.sft.factories.build import FACTORIES
from components.sft.fine_tune import fine_tune
from components.stage import Artifact
from flows.claims import StoreBench
from flows.errors import Stopped, UsageError
from flows.recipe import Recipe, load_whole_recipe
from flows.resolve import resolve
from flows.run_command import run_settings, sigterm_as_interrupt
from flows.stages import PIPELINE
from flows.terminal import Display, count, duration, forward_logs, quantity, stdout, table
from infra.settings import Settings
from infra.store import ArtifactStore, open_store

Measured = dict[str, dict[str, Any]]
"""Scores of ``components.sft.factories.ablation.measure`` by factory."""
NEEDED = ("tokenizer", "extend", "conversations")
UTILISATION = 0.33
"""Share of the measured matrix products that pocket's SFT reaches on a CPU: 29 to 46% were seen."""
OVERHEAD = 1.25
"""Times what training takes: records are written and checked, held-out prompts answered."""


def ablate_factories_command(
    path: Path, overrides: Sequence[str], only: Sequence[str] = (), *, plan_only: bool = False
) -> dict[str, Any]:
    """Train, measure and compare what the recipe's ``[factory_ablation]`` asks for; ``only``: some of the factories."""
    purpose = "qwenforge ablate-factories"
    recipe, settings, display = load_whole_recipe(path, overrides, purpose), run_settings(), Display()
    forward_logs(display)
    chosen, store = choose(only), open_store(settings)
    done = {row.stage.id: row.digest for row in resolve(PIPELINE, recipe, recipe.seed, store) if row.digest}
    if missing := [stage.id for stage in PIPELINE if stage.id in NEEDED and stage.id not in done]:
        raise UsageError(f"not there yet: {', '.join(missing)}; first: qwenforge run {path} --until {missing[-1]}")
    plan = plan_of(recipe, chosen)
    display.line(plan_line(plan))
    if plan_only:
        return {"plan": plan}
    trial = Trial(
        recipe.factory_ablation, recipe.seed, {stage: done[stage] for stage in NEEDED}, settings, store, display
    )  # fmt: skip
    try:
        with display.live(), sigterm_as_interrupt():
            whole, without = trial.scores(chosen)
    except KeyboardInterrupt:
        raise Stopped("stopped; what is trained is kept, run the same command to carry on") from None
    return {"plan": plan, "factories": compare(whole, without)}


def choose(only: Sequence[str]) -> list[str]:
    """The factories that are to be left out in turn; all by default."""
    if unknown := sorted(set(only) - set(FACTORIES)):
        raise UsageError(f"--only {unknown[0]}: no such factory; there are {', '.join(FACTORIES)}")
    return [name for name in FACTORIES if not only or name in only]


def plan_of(recipe: Recipe, chosen: Sequence[str]) -> dict[str, Any]:
    """What is to be trained, and for how long on a CPU like this one (in its present state: others may use it)."""
    from infra.hardware import measure_matmul_ceiling

    config, shape = recipe.factory_ablation, recipe.pretrain.model
    models = (1 + len(chosen)) * config.seeds
    flops = models * config.tokens * shape.training_flops_per_token(config.training.sequence_length)
    return {
        "factories": list(chosen), "parameters": shape.num_parameters(), "seeds": config.seeds, "models": models,
        "tokens": config.tokens, "held_out": config.held_out, "flops": float(flops),
        "seconds": OVERHEAD * flops / (UTILISATION * measure_matmul_ceiling(0.3, device="cpu")),
    }  # fmt: skip


def plan_line(plan: Mapping[str, Any]) -> str:
    """The plan in a line."""
    return (
        f"{plan['models']} models of {count(plan['parameters'])} parameters ({plan['seeds']} seeds; all factories, and "
        f"without each of {len(plan['factories'])}), {count(plan['tokens'])} tokens each: "
        f"{quantity(plan['flops'], 'FLOP')}, about {duration(plan['seconds'])} on this CPU; "
        f"{plan['held_out']} held-out prompts a factory"
    )


class Trial:
    """One comparison."""

    def __init__(
        self, config: FactoryAblationConfig, seed: int, digests: Mapping[str, str], settings: Settings,
        store: ArtifactStore, display: Display,
    ) -> None:  # fmt: skip
        self.config, self._display = config, display
        self._benches = [StoreBench(digests, seed + n, settings, store, display) for n in range(config.seeds)]

    def scores(self, chosen: Sequence[str]) -> tuple[list[Measured], list[Measured]]:
        """Scores by factory, (seeds,) each: of the models with all factories, and of those without the one asked."""
        pools = self._pools()
        whole: list[Measured] = []
        without: list[Measured] = []
        with self._display.progress((1 + len(chosen)) * len(self._benches), "models", unit="model") as bar:
            for bench in self._benches:  # seed by seed: what is there of a stopped command is whole comparisons
                model = self._model(bench, pools, left_out="")
                whole.append({name: self._measured(bench, pools, model, name) for name in chosen})
                bar.advance(1, without="none")
                without.append({})
                for name in chosen:
                    model = self._model(bench, pools, left_out=name)
                    without[-1][name] = self._measured(bench, pools, model, name)
                    bar.advance(1, without=name)
        return whole, without

    def _pools(self) -> Artifact:
        """The same records and held-out prompts for all models; each of eight factories gives an eighth."""
        tokens = -(-self.config.tokens // (len(FACTORIES) - 1))
        config = PoolsConfig(
            tokens=tokens, held_out=self.config.held_out, longest=self.config.training.sequence_length
        )  # fmt: skip
        bench = self._benches[0]
        return bench.make(write_pools, "conversations", config, {"tokenizer": bench.inputs["tokenizer"]})

    def _model(self, bench: StoreBench, pools: Artifact, left_out: str) -> Artifact:
        records = bench.make(
            compose, "conversations", ComposeConfig(left_out=left_out, tokens=self.config.tokens),
            {"pools": pools, "conversations": bench.inputs["conversations"]},
        )  # fmt: skip
        return bench.make(
            fine_tune, "checkpoint", self.config.training,
            {"long": bench.inputs["extend"], "conversations": records},
        )  # fmt: skip

    def _measured(self, bench: StoreBench, pools: Artifact, model: Artifact, factory: str) -> dict[str, Any]:
        made = bench.make(measure, "evaluation", MeasureConfig(factory=factory), {"checkpoint": model, "pools": pools})
        return json.loads((made.path / SCORES).read_text(encoding="utf-8"))


def print_factory_ablation(result: Mapping[str, Any]) -> None:
    """A line a factory, and how many of them are shown to matter."""
    console = stdout()
    if "factories" not in result:
        console.print(plan_line(result["plan"]))
        return
    rows = [
        [row["factory"], row["metric"], f"{row['whole']:.3f}", f"{row['without']:.3f}", f"{row['difference']:+.3f}",
         f"{row['low']:+.3f}, {row['high']:+.3f}", "yes" if row["lowered"] else "not shown"]
        for row in result["factories"]
    ]  # fmt: skip
    columns = {
        "factory": "left", "metric": "left", "all": "right", "without": "right", "change": "right",
        "interval": "right", "lowered": "left",
    }  # fmt: skip
    lowered = sum(row["lowered"] for row in result["factories"])
    plan = result["plan"]
    title = (
        f"{plan['seeds']} models of {plan['parameters']:,} parameters each way, {plan['tokens']:,} tokens each; "
        f"{plan['held_out']} held-out prompts a factory, paired 95% intervals"
    )
    console.print(table(title, columns, rows))
    console.print("accepted: by the factory's check; nats: a token of the reference answers takes, less is better;")
    console.print("language, form: kept, whatever the numbers are; all figures: --json")
    console.print(f"leaving a factory out lowers its own metric for {lowered} of {len(result['factories'])}")


__all__ = ["ablate_factories_command", "print_factory_ablation"]
