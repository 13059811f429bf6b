"""Everything that the report card says, gathered from the artifacts of a run into one JSON-able dict."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from components.evaluation.before_after import before_after
from components.evaluation.claims import claims
from components.evaluation.items import read_items
from components.evaluation.long_context_card import long_context, long_context_claims
from components.evaluation.report_samples import document_samples
from components.evaluation.study import study, study_claims, study_facts
from components.stage import Artifact

CHECKPOINTS = {
    "pretrain": "base", "extend": "long", "sft": "sft", "dpo": "dpo", "reward": "reward model", "grpo": "rl",
}  # fmt: skip
"""Training stages in order, and the names their checkpoints go by."""
EVALUATIONS = {
    "ngram": "order-5 n-gram", "evaluate-start": "start", "evaluate-base": "base", "evaluate-long": "long",
    "evaluate-sft": "sft", "evaluate-dpo": "dpo", "evaluate-rl": "rl",
}  # fmt: skip
FUNNEL = ("ingest", "clean", "deduplicate", "quality", "domains", "mixture", "decontaminate", "shards")
HEADLINES = {
    "bits_per_byte": ("held-out bits per byte", "lower"),
    "verified_greedy": ("verified answers, greedy", "higher"),
    "verified_sampled": ("verified answers, sampled", "higher"),
    "format_greedy": ("format followed, greedy", "higher"),
    "format_sampled": ("format followed, sampled", "higher"),
    "stopped_greedy": ("answers that end by themselves", "higher"),
    "factory_greedy": ("answers that pass the factories' checks, greedy", "higher"),
    "ifeval.prompt_strict": ("IFEval prompts followed, strict", "higher"),
    "reasoning.acc": ("reasoning-gym questions answered", "higher"),
    "human_eval": ("HumanEval problems solved, greedy", "higher"),
    "reward": ("reward of sampled answers", "higher"),
    "answer_tokens_sampled": ("length of sampled answers, tokens", ""),
}
"""Metric -> (row title, which way is better). Pass keys follow, a row a length."""


def collect(title: str, inputs: Mapping[str, Artifact], seed: int) -> dict[str, Any]:
    """Content of ``report.json``. Works with any part of a run's artifacts."""
    evaluations = {
        EVALUATIONS[stage]: _json(inputs[stage].path / "evaluation.json")["metrics"]
        for stage in EVALUATIONS
        if stage in inputs
    }
    items = {stage: read_items(inputs[stage].path) for stage in EVALUATIONS if stage in inputs}
    compared, studied, long = before_after(items, inputs, seed), study(inputs), long_context(inputs)
    return {
        "title": title,
        "claims": study_claims(studied) if studied else claims(items, inputs, seed) + long_context_claims(long),
        "facts": _facts(inputs),
        **({"before_after": compared} if compared else {}),
        **({"study": studied} if studied else {}),
        **({"long_context": long} if long else {}),
        **({"experts": experts} if (experts := _optional(inputs, "experts", "experts.json")) else {}),
        "metrics": list(_metric_rows(evaluations)),
        "evaluations": evaluations,
        "effects": [
            {"stage": stage, **effect} for stage in inputs for effect in inputs[stage].summary.get("effects", [])
        ],
        "funnel": _funnel(inputs),
        "mixture": _optional(inputs, "mixture", "mixture.json") or {},
        "histories": _histories(inputs),
        "scaling": _scaling(inputs),
        "samples": _samples(inputs),
        "document_samples": document_samples(inputs, seed),
        "sources": _sources(inputs),
        "artifacts": [
            {"stage": stage, "kind": artifact.kind, "digest": artifact.digest} for stage, artifact in inputs.items()
        ],
    }


def _facts(inputs: Mapping[str, Artifact]) -> list[dict[str, str]]:
    """The run in a few figures: label and value."""
    found = []
    if "shards" in inputs:
        shards = _json(inputs["shards"].path / "shards.json")
        found += [
            ("training tokens in shards", f"{shards['train']['tokens']:,}"),
            ("vocabulary", f"{shards['vocab_size']:,}"),
        ]
    if first := next((inputs[stage] for stage in ("pretrain", "start") if stage in inputs), None):
        from model.hf_config import config_from_hf

        config = config_from_hf(_json(first.path / "config.json"))
        size, inner = config.num_parameters(), config.num_non_embedding_parameters()
        found.insert(0, (f"parameters ({inner / 1e6:,.2f}M without embeddings)", f"{size / 1e6:,.2f}M"))
    if "start" in inputs:
        found.insert(0, ("started from", str(inputs["start"].summary.get("source", ""))))
    trained = [_optional(inputs, stage, "training.json") or {} for stage in CHECKPOINTS]
    if tokens := sum(int(t.get("tokens", 0)) for t in trained):
        found.append(("tokens trained on, all stages", f"{tokens:,}"))
    if flops := sum(float(t.get("flops", 0)) for t in trained):
        found.append(("training compute, FLOPs", f"{flops:.2e}"))
    return [{"label": label, "value": value} for label, value in found + study_facts(inputs)]


def _metric_rows(evaluations: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Rows of the table of every checkpoint on every metric; a cell is ``{value, low, high, n}`` or None."""
    lengths = sorted({int(k.split("/")[1]) for m in evaluations.values() for k in m if k.startswith("passkey/")})
    rows = HEADLINES | {f"passkey/{length}": (f"pass keys found at {length:,} tokens", "higher") for length in lengths}
    for name, (title, better) in rows.items():
        cells = {who: metrics.get(name) for who, metrics in evaluations.items()}
        if not any(cells.values()):
            continue
        yield {
            "name": name,
            "title": title,
            "better": better,
            "unit": "" if name in ("bits_per_byte", "reward", "answer_tokens_sampled") else "%",
            "cells": cells,
        }


def _funnel(inputs: Mapping[str, Artifact]) -> list[dict[str, Any]]:
    """Documents and megabytes after each data stage, and how many went for which reason, the commonest first."""
    rows: list[dict[str, Any]] = []
    for stage in FUNNEL:
        summary: Mapping[str, Any] = inputs[stage].summary if stage in inputs else {}
        documents = summary.get("documents_out", summary.get("documents"))
        if documents is not None:
            size = float(summary.get("bytes_out", summary.get("bytes", 0)))
            reasons = {name: int(gone) for name, gone in summary.get("by_reason", {}).items() if gone}
            for key, name in (("dropped", "quality too low"), ("dropped_documents", "no room in the mixture")):
                if summary.get(key):
                    reasons[name] = int(summary[key])
            rows.append({
                "stage": stage, "documents": int(documents), "megabytes": round(size / 1e6, 3),
                "reasons": dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))),
            })  # fmt: skip
    return rows


def _histories(inputs: Mapping[str, Artifact]) -> dict[str, list[dict[str, Any]]]:
    histories = {}
    for stage, name in CHECKPOINTS.items():
        training = _optional(inputs, stage, "training.json")
        if training and len(training.get("history", [])) > 1:
            histories[name] = training["history"]
    return histories


def _scaling(inputs: Mapping[str, Artifact]) -> dict[str, Any]:
    """The fitted law as written by the ``scaling`` stage, wherever its folder holds it."""
    if "scaling" not in inputs:
        return {}
    for file in sorted(inputs["scaling"].path.glob("*.json")):
        content = _json(file)
        if isinstance(content, dict) and {"learning_rate", "batch_tokens", "loss", "optima"} <= set(content):
            return content
    return {}


def _samples(inputs: Mapping[str, Artifact]) -> list[dict[str, Any]]:
    """Prompts with the answer of every checkpoint side by side, in the order of the first evaluation."""
    prompts: dict[str, dict[str, Any]] = {}
    for stage, name in EVALUATIONS.items():
        for sample in _optional(inputs, stage, "samples.json") or []:
            entry = prompts.setdefault(
                sample["id"], {key: sample[key] for key in ("id", "task", "messages", "expected")} | {"answers": {}}
            )
            entry["answers"][name] = {key: sample[key] for key in ("response", "correct", "format")}
    return list(prompts.values())


def _sources(inputs: Mapping[str, Artifact]) -> list[dict[str, Any]]:
    """Corpus sources with licence, documents and bytes."""
    if "ingest" not in inputs:
        return []
    summary = inputs["ingest"].summary
    documents, sizes = summary.get("by_source", {}), summary.get("bytes_by_source", {})
    return [
        {"source": name, "licence": licence, "documents": documents.get(name, 0), "bytes": sizes.get(name, 0)}
        for name, licence in summary.get("licences", {}).items()
    ]


def _optional(inputs: Mapping[str, Artifact], stage: str, file: str) -> Any:
    """Parsed JSON of an artifact's file; None where the stage did not run or left no such file."""
    path = inputs[stage].path / file if stage in inputs else None
    return _json(path) if path is not None and path.is_file() else None


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
