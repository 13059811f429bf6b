"""A dry run of the factories: a few candidates of each with their verdicts, and what the rest would yield and cost."""

import random
from itertools import islice

from components.sft.factories.build import (
    FactoriesConfig,
    answered_by,
    asked_teacher,
    chosen,
    cost,
    load,
)
from components.stage import Run, Summary

SHOWN = 10
"""Samples over all factories, about."""
TAUGHT_PROMPTS = 8
"""Prompts of each factory that a teacher is asked."""


def preview(config: FactoriesConfig, run: Run) -> Summary:
    """One batch of each factory, checked. A teacher's answers are kept: the whole run begins with the same ones."""
    names = chosen(config)
    teacher = asked_teacher(config, run)
    samples: list[Summary] = []
    projections: dict[str, Summary] = {}
    spent: Summary = {"prompt_tokens": 0, "answer_tokens": 0, "cost": 0.0}
    size = config.batch if teacher is None else TAUGHT_PROMPTS * config.samples
    with run.progress(len(names), "dry run", unit="factory") as bar:
        for name in names:
            factory = answered_by(load(name), config, teacher, run.seed, TAUGHT_PROMPTS)
            rng = random.Random(f"{run.seed}-factory-{name}")
            batch = list(islice(factory.write(rng, config.planted_share), size))
            verdicts = factory.check(batch)
            kept = {str(c.messages) for c, v in zip(batch, verdicts, strict=True) if v.accepted}
            prompts = len({str(candidate.messages) for candidate in batch})
            row: Summary = {
                "records": config.records[name], "prompts": prompts, "yield": len(kept),
            }  # fmt: skip
            row["projected_prompts"] = -(-config.records[name] * prompts // len(kept)) if kept else None
            if teacher is not None:
                now = cost(config, teacher)
                own = {key: now[key] - spent[key] for key in now}
                spent, share = now, (row["projected_prompts"] or 0) / prompts
                row |= {f"projected_{key}": value * share if kept else None for key, value in own.items()}
            projections[name] = row
            judged = list(zip(batch, verdicts, strict=True))[:: 1 if teacher is None else config.samples]
            samples += [
                {"factory": name, "prompt": c.messages[-1]["content"], "response": c.response,
                 "planted": c.planted, "verdict": v.reason or "accepted"}
                for c, v in judged[: max(1, SHOWN // len(names))]
            ]  # fmt: skip
            bar.advance(factory=name)
    return {"samples": samples, "factories": projections, "writer": config.writer}
