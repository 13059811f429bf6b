"""Artifacts of one run, of the size that pocket's have, for looking at: real files by the stages' own writers.

What they say is made up; nothing was trained.
"""

import json
import random
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from components.data.documents import new_document, write_documents
from components.evaluation.items import Items
from components.preference.pair_store import Pair, write_pairs
from components.sft.conversation_store import Conversation, write_conversations
from flows.stages import PIPELINE
from infra.store import ArtifactStore

DOMAINS = ("code", "technology", "science", "news", "entertainment", "finance", "medicine", "law")
FAMILIES = ("json", "ordering", "python", "repeat", "table", "tagged")
DIMENSIONS = ("overall", "educational", "fluency", "information")
LENGTHS = (128, 256, 512, 1024)
ROLLOUTS, QUERIES, GROUP = 60, 32, 8

Writer = Callable[[Path, random.Random], dict[str, Any]]


def write_artifacts(store: ArtifactStore) -> dict[str, str]:
    """Commit one artifact a stage; stage -> digest."""
    digests: dict[str, str] = {}
    for number, stage in enumerate(PIPELINE):
        with TemporaryDirectory() as name:
            folder = Path(name)
            summary = writer(stage.id)(folder, random.Random(number))
            (folder / "note.txt").write_text(f"{stage.id}, made up for looking at the dashboard\n")
            digests[stage.id] = store.commit(
                folder, kind=stage.kind, stage=stage.id, stage_version=str(stage.version), config_digest="c" * 64,
                inputs={key: digests[producer] for key, producer in stage.inputs.items()}, seed=number,
                summary={"effects": [effect(stage.id)], **summary},
            ).digest  # fmt: skip
    return digests


def writer(stage: str) -> Writer:
    if stage.startswith("evaluate-") or stage == "ngram":
        return evaluation
    return {
        "ingest": documents, "clean": clean, "deduplicate": documents, "quality": quality, "domains": documents,
        "mixture": mixture, "decontaminate": documents, "conversations": conversations, "pairs": pairs, "grpo": grpo,
        "scaling": scaling, "report": report,
    }.get(stage, nothing)  # fmt: skip


def effect(stage: str) -> dict[str, Any]:
    return {
        "name": f"what {stage} is for", "value": 0.8, "baseline": 0.5, "unit": "share", "better": "higher",
        "low": 0.1, "high": 0.5, "note": "made up",
    }  # fmt: skip


def nothing(folder: Path, rng: random.Random) -> dict[str, Any]:
    return {"final_loss": 2.5}


def documents(folder: Path, rng: random.Random) -> dict[str, Any]:
    made = [
        new_document(
            " ".join(rng.choices(DOMAINS, k=120)) + f" {number}", source=f"source-{number % 9}",
            language=("en", "zh", "code")[number % 3], domain=DOMAINS[number % len(DOMAINS)], licence="CC0-1.0",
        )
        for number in range(3000)
    ]  # fmt: skip
    write_documents(folder, made)
    size = sum(len(document.text) for document in made)
    return {
        "documents_out": len(made),
        "bytes_out": size,
        "by_source": {"source-1": 3000},
        "licences": {"source-1": "CC0-1.0"},
    }


def clean(folder: Path, rng: random.Random) -> dict[str, Any]:
    reasons = ("too short", "repetition", "symbols", "personal data", "language")
    rows = [{"reason": r, "source": "source-1", "text": " ".join(rng.choices(DOMAINS, k=40))} for r in reasons * 3]
    (folder / "dropped.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return documents(folder, rng) | {"by_reason": {reason: rng.randint(10, 900) for reason in reasons}}


def quality(folder: Path, rng: random.Random) -> dict[str, Any]:
    rows = [
        {
            "text": " ".join(rng.choices(DOMAINS, k=40)),
            "kept": rng.random() > 0.3,
            **{d: rng.random() for d in DIMENSIONS},
        }
        for _ in range(400)
    ]
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return documents(folder, rng)


def mixture(folder: Path, rng: random.Random) -> dict[str, Any]:
    shares = {side: {domain: rng.random() / 4 for domain in DOMAINS} for side in ("before", "after")}
    (folder / "mixture.json").write_text(json.dumps(shares))
    return documents(folder, rng)


def scaling(folder: Path, rng: random.Random) -> dict[str, Any]:
    points = [
        {"parameters": size, "tokens": tokens, "learning_rate": 2.0**-rate, "batch_tokens": batch,
         "loss": 5 - 0.3 * rng.random()}
        for size in (1e5, 3e5) for tokens in (1e5, 4e5) for rate in range(6, 11) for batch in (1024, 4096)
    ]  # fmt: skip
    fit = {
        "exponent_parameters": -0.2, "exponent_tokens": 0.1, "exponent_parameters_interval": [-0.3, -0.1],
        "exponent_tokens_interval": [0.0, 0.2],
    }  # fmt: skip
    loss = {
        "irreducible": 1.7, "parameters_scale": 400.0, "parameters_exponent": 0.34, "tokens_scale": 410.0,
        "tokens_exponent": 0.28, "intervals": {symbol: [0.1, 0.9] for symbol in ("E", "A", "alpha", "B", "beta")},
    }  # fmt: skip
    law = {"points": points, "optima": points[:4], "learning_rate": fit, "batch_tokens": fit, "loss": loss}
    (folder / "law.json").write_text(json.dumps(law))
    return {}


def conversations(folder: Path, rng: random.Random) -> dict[str, Any]:
    rows = [
        Conversation(f"q{number}", "rl", FAMILIES[number % 6], question(number), str(number), {})
        for number in range(ROLLOUTS * QUERIES)
    ]
    write_conversations(folder, rows)
    return {}


def question(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"What is {number} plus {number % 7}? End with 'Answer: ...'."}]


def pairs(folder: Path, rng: random.Random) -> dict[str, Any]:
    rows = [
        Pair(
            f"q{number}-0", "train" if number % 10 else "heldout", FAMILIES[number * 6 // 1200], question(number),
            f"{number} and {number % 7} make {number + number % 7}.\nAnswer: {number + number % 7}",
            f"I think that it is\nAnswer: {number + 1 + number % 7}", 1.0, 0.5,
        )
        for number in range(1200)
    ]  # fmt: skip
    write_pairs(folder, rows)
    return {"pairs_by_task": dict.fromkeys(FAMILIES, 200)}


def grpo(folder: Path, rng: random.Random) -> dict[str, Any]:
    import pandas as pd

    rows = []
    for rollout in range(ROLLOUTS):
        for query in range(QUERIES):
            for _ in range(GROUP):
                right = rng.random() < 0.3 + 0.5 * rollout / ROLLOUTS
                rows.append(
                    (rollout, f"q{rollout * QUERIES + query}", FAMILIES[query % 6], f"Answer: {rng.randint(0, 99)}",
                     right + 0.1 * rng.random(), float(right), 1.0, rng.gauss(0, 1))
                )  # fmt: skip
    names = ["rollout", "query", "task", "text", "reward", "correct", "format", "advantage"]
    pd.DataFrame(rows, columns=names).to_parquet(folder / "rollouts.parquet", index=False)
    return {"final_loss": 0.1}


def evaluation(folder: Path, rng: random.Random) -> dict[str, Any]:
    items = Items()
    for family in FAMILIES:
        for number in range(160):
            for metric in ("verified_greedy", "format_greedy", "stopped_greedy"):
                items.add(metric, family, f"{family}-{number}", float(rng.random() < 0.7))
    for domain in DOMAINS:
        for number in range(60):
            items.add("bits_per_byte", domain, f"{domain}-{number}", 900 * rng.random(), weight=450.0)
    for length in LENGTHS:
        for number in range(20):
            items.add("passkey", str(length), f"{length}/{number}", float(rng.random() < 1.2 - length / 2000))
    items.write(folder)
    means = items.frame().groupby("metric")["score"].mean()
    cells = {name: {"value": float(value), "low": 0.0, "high": 1.0, "n": 100} for name, value in means.items()}
    for length in LENGTHS:
        cells[f"passkey/{length}"] = {"value": min(1.0, 1.2 - length / 2000), "low": 0.0, "high": 1.0, "n": 20}
    (folder / "evaluation.json").write_text(json.dumps({"metrics": cells}))
    return {}


def report(folder: Path, rng: random.Random) -> dict[str, Any]:
    claim = {
        "claim": "made up for looking at the dashboard", "verdict": "holds", "value": 0.8, "baseline": 0.5,
        "difference": 0.3, "low": 0.1, "high": 0.5, "n": 100,
    }  # fmt: skip
    (folder / "report.json").write_text(json.dumps({"claims": [claim] * 8}))
    return {}
