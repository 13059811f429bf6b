"""``qwenforge claims``: the claims of the report, each from several seeds, on what a finished recipe has left.

The scores of a (claim, seed) are an artifact of the store, and so is everything that is trained for them: a killed
command goes on where it was, and a finished one only writes its page again.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.claims.claim import Claim, Scores
from components.stage import Artifact, Inputs, Kind, StageConfig, Summary
from flows.errors import Stopped, UsageError, describe
from flows.recipe import load_whole_recipe
from flows.resolve import resolve
from flows.run_command import run_settings, sigterm_as_interrupt
from flows.stage_run import StageRun, workspace
from flows.stages import PIPELINE, Stage, cache_key, config_digest
from flows.terminal import Display, duration, forward_logs, quantity, stdout, table
from infra.settings import Settings
from infra.store import ArtifactStore, open_store

SCORES = "scores.json"


def claims_command(
    path: Path, overrides: Sequence[str], only: Sequence[str], seeds: int, budget: float | None, output: Path | None
) -> dict[str, Any]:
    """Measure and write the page; a claim whose measurement fails is reported as such and the others go on."""
    from components.claims.page import write_page
    from components.claims.registry import CLAIMS

    recipe, settings, display = load_whole_recipe(path, overrides, "qwenforge claims"), run_settings(), Display()
    forward_logs(display)
    store, chosen = open_store(settings), choose(CLAIMS, only)
    digests = finished(chosen, recipe, store, path)
    try:
        with display.live(), sigterm_as_interrupt():
            found = measure_all(chosen, digests, seeds, budget, settings, store, display)
    except KeyboardInterrupt:
        raise Stopped("stopped; what is measured is kept, run the same command to carry on") from None
    folder = output or settings.home / "claims" / recipe.name
    result = report(chosen, found, recipe.name)
    display.line(f"written to {write_page(result, folder)}")
    return result


def choose(claims: Sequence[Claim], only: Sequence[str]) -> list[Claim]:
    """The claims that are asked for, in the registry's order; all by default."""
    known = [claim.id for claim in claims]
    if unknown := sorted(set(only) - set(known)):
        raise UsageError(f"--only {unknown[0]}: no such claim; there are {', '.join(known)}")
    return [claim for claim in claims if not only or claim.id in only]


def finished(claims: Sequence[Claim], recipe: Any, store: ArtifactStore, path: Path) -> dict[str, str]:
    """Digests of the stages that ``claims`` start from; UsageError where one has not been run."""
    done = {row.stage.id: row.digest for row in resolve(PIPELINE, recipe, recipe.seed, store)}
    needed = {stage for claim in claims for stage in claim.needs}
    if missing := [stage.id for stage in PIPELINE if stage.id in needed and not done[stage.id]]:
        raise UsageError(f"not there yet: {', '.join(missing)}; first: qwenforge run {path} --until {missing[-1]}")
    return {stage: digest for stage, digest in done.items() if stage in needed and digest}


def plan_command(path: Path, overrides: Sequence[str], only: Sequence[str], seeds: int) -> list[dict[str, Any]]:
    """What is measured already and what the rest will take on two cores, claim by claim; nothing is run."""
    from components.claims.cost import UTILISATION, Scale, plan
    from components.claims.registry import CLAIMS
    from infra.hardware import accelerator

    recipe, settings, display = load_whole_recipe(path, overrides, "qwenforge claims --plan"), run_settings(), Display()
    store, chosen = open_store(settings), choose(CLAIMS, only)
    laptop = accelerator("cpu-2")
    scale = Scale(recipe.pretrain.model, recipe.conversations, recipe.pairs.pairs_per_prompt)
    done = {row.stage.id: row.digest for row in resolve(PIPELINE, recipe, recipe.seed, store)}
    rows = []
    for claim, flops, seconds in plan(chosen, scale, laptop.peak_flops * UTILISATION):
        known = 0
        if all(done[stage] for stage in claim.needs):
            for seed in range(seeds):
                bench = StoreBench({name: str(done[name]) for name in claim.needs}, seed, settings, store, display)
                known += bench.scores(claim, begin=False) is not None
        rows.append({
            "id": claim.id, "family": claim.family, "measured": known, "seeds": seeds, "flops": flops * seeds,
            "minutes": seconds * seeds / 60, "minutes_left": seconds * (seeds - known) / 60,
        })  # fmt: skip
    return rows


def print_plan(rows: Sequence[Mapping[str, Any]]) -> None:
    """The plan for people."""
    lines = [
        [row["id"], f"{row['measured']} of {row['seeds']}", quantity(row["flops"]), f"{row['minutes']:.1f}",
         f"{row['minutes_left']:.1f}"]
        for row in rows
    ]  # fmt: skip
    sums = [sum(row[name] for row in rows) for name in ("flops", "minutes", "minutes_left")]
    lines.append(["total", "", quantity(sums[0]), f"{sums[1]:.0f}", f"{sums[2]:.0f}"])
    headers = {"claim": "left", "measured": "right", "FLOPs": "right", "minutes": "right", "left": "right"}
    stdout().print(table("on two quiet cores; what claims share is counted with the first of them", headers, lines))


@dataclass
class Found:
    """What is known of one claim: scores and seconds by seed, or why there are none."""

    scores: dict[int, Mapping[str, Scores]]
    seconds: dict[int, float]
    problem: str = ""


def measure_all(
    claims: Sequence[Claim], digests: Mapping[str, str], seeds: int, budget: float | None, settings: Settings,
    store: ArtifactStore, display: Display,
) -> dict[str, Found]:  # fmt: skip
    """Scores by claim. After ``budget`` minutes nothing new is begun; what is in the store is read all the same."""
    found = {claim.id: Found({}, {}) for claim in claims}
    ends = time.monotonic() + 60 * (float("inf") if budget is None else budget)
    with display.progress(len(claims) * seeds, "claims", unit="seed") as bar:
        for claim in claims:
            of = found[claim.id]
            for seed in range(seeds):
                bench = StoreBench({name: digests[name] for name in claim.needs}, seed, settings, store, display)
                try:
                    known = bench.scores(claim, begin=time.monotonic() < ends)
                except Exception as error:  # one claim's trouble is not the others'
                    of.problem = describe(error)
                    display.line(f"{claim.id}, seed {seed}: {of.problem}")
                    break
                if known is None:
                    of.problem = "the budget was spent"
                    break
                of.scores[seed], of.seconds[seed] = known
                bar.advance(1, claim=claim.id)
    return found


class StoreBench:
    """``components.claims.claim.Bench`` over the artifact store."""

    run: StageRun

    def __init__(
        self, digests: Mapping[str, str], seed: int, settings: Settings, store: ArtifactStore, display: Display
    ) -> None:
        self._digests, self._seed, self._settings = dict(digests), seed, settings
        self._store, self._display = store, display

    @property
    def inputs(self) -> Inputs:
        return {name: self._store.open(digest) for name, digest in self._digests.items()}

    def scores(self, claim: Claim, *, begin: bool) -> tuple[Mapping[str, Scores], float] | None:
        """Scores of one claim and the seconds that they took; None where they are not known and not to be begun."""
        row = Stage(f"claim-{claim.id}", "", "evaluation", version=claim.version)
        key = cache_key(row, claim.config, self._seed, self._digests)
        digest = self._store.recall(key)
        if digest is None and not begin:
            return None
        if digest is None:
            digest = self._measure(claim, row, key)
        content = json.loads(self._store.read(digest, SCORES))
        return {name: Scores(**scores) for name, scores in content["scores"].items()}, content["seconds"]

    def make(
        self, stage: Callable[[Any, Inputs, Any], Summary], kind: Kind, config: StageConfig, inputs: Inputs
    ) -> Artifact:
        """Run ``stage`` under this seed, or take what it has made before."""
        name = f"{stage.__module__.rpartition('.')[2]}-{stage.__name__}".replace("_", "-")
        row = Stage(f"for-claims-{name}", "", kind, version=_version_of(stage))
        digests = {part: artifact.digest for part, artifact in inputs.items()}
        key = cache_key(row, config, self._seed, digests)
        digest = self._store.recall(key)
        if digest is None:
            with self._running(row, config, key, digests) as (run, keep):
                keep(stage(config, inputs, run))
            digest = self._store.recall(key)
        assert digest is not None
        return self._store.open(digest)

    def _measure(self, claim: Claim, row: Stage, key: str) -> str:
        started = time.perf_counter()
        with self._running(row, claim.config, key, self._digests) as (self.run, keep):
            measured = {name: scores.as_dict() for name, scores in claim.measure(claim.config, self).items()}
            content = {"scores": measured, "seconds": round(time.perf_counter() - started, 1)}
            (self.run.output / SCORES).write_text(json.dumps(content, allow_nan=False), encoding="utf-8")
            keep({"claim": claim.id, "statement": claim.statement})
        digest = self._store.recall(key)
        assert digest is not None
        return digest

    @contextmanager
    def _running(self, row: Stage, config: StageConfig, key: str, digests: Mapping[str, str]):  # type: ignore[no-untyped-def]
        """A run, and what commits its output under ``key``."""
        with workspace(self._settings.home, key) as (output, state):
            run = StageRun(
                self._seed, output, state, self._settings.device, self._display, lambda values, step: None
            )  # fmt: skip

            def keep(summary: Summary) -> None:
                artifact = self._store.commit(
                    output, kind=row.kind, stage=row.id, stage_version=str(row.version), inputs=digests,
                    config_digest=config_digest(config), seed=self._seed, summary=summary,
                )  # fmt: skip
                self._store.remember(key, artifact.digest)

            yield run, keep


def _version_of(stage: Callable[..., Any]) -> int:
    """The version of a pipeline's stage; 1 of one that only claims use."""
    name = f"{stage.__module__}:{stage.__name__}"
    return next((row.version for row in PIPELINE if row.function == name), 1)


def report(claims: Sequence[Claim], found: Mapping[str, Found], recipe: str) -> dict[str, Any]:
    """Everything that the page says, JSON-able."""
    from components.claims.verdict import judge

    rows = []
    for claim in claims:
        of = found[claim.id]
        verdict, findings = judge(claim, of.scores)
        rows.append(
            {
                "id": claim.id, "family": claim.family, "statement": claim.statement, "where": claim.where,
                "design": claim.design, "verdict": verdict, "seeds": sorted(of.scores), "problem": of.problem,
                "seconds": round(sum(of.seconds.values())),
                "findings": [finding.as_dict() for finding in findings],
            }
        )  # fmt: skip
    return {"recipe": recipe, "claims": rows}


def print_claims(result: Mapping[str, Any]) -> None:
    """A block a claim: its verdict, and a line for each contrast."""
    from components.evaluation.formats import difference, number

    console = stdout()
    for claim in result["claims"]:
        facts = f"{claim['verdict']}; report, section {claim['where']}; {len(claim['seeds'])} seeds, "
        console.print(f"{claim['id']}: {claim['statement']}", style="bold")
        console.print(f"  {facts}{duration(claim['seconds'])}")
        for finding in claim["findings"]:
            unit = finding["unit"]
            treated, baseline = (number(finding[side], unit) for side in ("treated", "baseline"))
            gap, low, high = (difference(finding[side], unit) for side in ("difference", "low", "high"))
            console.print(f"    {finding['contrast']}: {treated} against {baseline}, {gap} ({low} to {high})")
        if claim["problem"]:
            console.print(f"    {claim['problem']}")
    verdicts = [claim["verdict"] for claim in result["claims"]]
    console.print("; ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in dict.fromkeys(verdicts)))


__all__ = [
    "StoreBench", "choose", "claims_command", "finished", "measure_all", "plan_command", "print_claims", "print_plan",
    "report",
]  # fmt: skip
