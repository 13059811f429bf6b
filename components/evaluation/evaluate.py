"""Stage ``evaluate``: every held-out measurement of one checkpoint, the same for all checkpoints of a run.

Held-out bits per byte by domain; verified answers and format following by task family, greedy and sampled; pass-key
retrieval by context length; HumanEval, other benchmarks and what the factories hold out where they are asked for;
reward and length of the sampled answers. Outcomes are kept item by item, so that the report card can compare any two
checkpoints paired.
"""

import json
import operator
from typing import Annotated, Literal

from pydantic import Field

from components.evaluation.held_out import HeldOutConfig
from components.stage import Inputs, Run, Summary


class EvaluationConfig(HeldOutConfig):
    """Sizes of the measurements; equal settings measure equal items in every checkpoint."""

    window: int | None = Field(
        None, ge=2, description="context of bits per byte, tokens; the checkpoint's own length where left out"
    )
    tasks_per_family: int = Field(24, ge=0, description="held-out conversations of each task family")
    samples: int = Field(
        4, ge=0, description="sampled answers to each of them; one where a checkpoint hardly ever ends its answers"
    )
    temperature: float = Field(1.0, gt=0, description="of the sampled answers")
    max_new_tokens: int = Field(64, ge=1, description="longest answer")
    passkey_lengths: tuple[int, ...] = Field((128, 256, 512, 1024), description="context lengths, tokens")
    passkeys_per_length: int = Field(40, ge=0)
    human_eval: int = Field(
        0, ge=0, le=164, description="HumanEval problems whose tests the greedy answer is put to, in the sandbox",
        exclude_if=operator.not_,  # off, it is not part of the cache key
    )  # fmt: skip
    human_eval_tokens: int = Field(
        384, ge=1, description="longest answer to one of them", exclude_if=lambda value: value == 384
    )
    benchmarks: dict[Literal["ifeval", "reasoning"], Annotated[int, Field(ge=1)]] = Field(
        {}, exclude_if=operator.not_, description="questions of benchmarks of `qwenforge eval --tasks`"
    )
    benchmark_tokens: int = Field(
        256, ge=1, description="longest answer to one of them", exclude_if=lambda value: value == 256
    )
    shown_prompts: int = Field(8, ge=0, description="prompts whose answers the report card shows")


def evaluate(config: EvaluationConfig, inputs: Inputs, run: Run) -> Summary:
    """Inputs ``checkpoint``, ``shards``, ``conversations``, ``factories``, ``reward``; all but the first may be
    missing. Without shards there is no held-out text, and so neither bits per byte nor pass keys. ``tokenizer`` is that
    of the shards, for a checkpoint that has another one.

    Writes ``evaluation.json`` ({metrics: {name: {value, low, high, n}}}), ``items.parquet``, ``samples.json``.
    """
    from components.evaluation.measure import Measurement

    measurement = Measurement(config, inputs, run)
    if "shards" in inputs:
        measurement.bits_per_byte()
        measurement.passkey()
    else:
        run.info("no held-out text: bits per byte and pass keys are left out")
    if "conversations" in inputs:
        measurement.tasks()
    if "factories" in inputs:
        measurement.factories()
    if config.human_eval:
        measurement.human_eval()
    if config.benchmarks:
        measurement.benchmarks()
    metrics = measurement.items.metrics(run.seed)
    measurement.items.write(run.output)
    for name, content in (("evaluation", {"metrics": metrics}), ("samples", measurement.samples)):
        text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False)
        (run.output / f"{name}.json").write_text(text, encoding="utf-8")
    run.metrics({name: metric["value"] for name, metric in metrics.items()})
    return {"metrics": metrics, "effects": measurement.effects()}
