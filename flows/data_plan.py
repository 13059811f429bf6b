"""What the data stages take to make a recipe's tokens: cores, hours and storage, from rates that were measured.

The rates of one core are in the newest ``benchmarks/results/*-data.json``, which ``qwenforge bench data --json``
writes. How much text goes in is a guess from the web: of what is extracted from Common Crawl, filters leave 23% of the
documents and deduplication half of these (RefinedWeb, arXiv 2306.01116, figure 2). Text is taken as extracted and as
read once; a mixture that repeats documents needs less.
"""

import json
from pathlib import Path
from typing import Any

from flows.recipe import Recipe

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
COMMAND = "qwenforge bench data --json benchmarks/results/DATE-data.json"
CLEANED, DEDUPLICATED = 0.23, 0.12
"""Shares of the extracted documents that are left after these stages."""
CORES_PER_GPU = 16
"""Of a host: an eight-GPU server has about 128."""
SIGNATURE_BYTES = 24
"""A document's digest and length; four more for each entry of its signature."""
KEPT_COPIES = ("quality", "domains", "mixture", "decontaminate")
"""Stages that write the deduplicated documents again, as an artifact of their own."""


def plan_data(recipe: Recipe, cores: int) -> dict[str, Any] | None:
    """Core-hours of each stage, hours on ``cores`` and bytes of storage; None where nothing was measured yet."""
    measured = read_rates()
    if measured is None:
        return None
    rates, facts = measured["rates"], measured
    tokens = recipe.pretrain.tokens + recipe.extend.tokens
    kept = tokens * facts["bytes_per_token"]  # bytes of text that are trained on
    chosen = kept / recipe.quality.keep_share
    extracted = chosen / DEDUPLICATED
    sizes = {
        "ingest": extracted, "clean": extracted, "deduplicate": extracted * CLEANED, "quality": chosen,
        "domains": kept, "mixture": kept, "decontaminate": kept, "shards": kept,
    }  # fmt: skip
    stages = []
    for stage, size in sizes.items():
        per_byte = 1 / rates["reading and writing"] + (1 / rates[stage] if stage in rates else 0.0)
        hours = size * per_byte / 3600
        stages.append({"stage": stage, "bytes": size, "core_hours": hours, "hours": hours / cores})
    signature = SIGNATURE_BYTES + 4 * recipe.deduplicate.bands * recipe.deduplicate.rows
    storage = {
        "ingested text": extracted * facts["stored_share"],
        "cleaned text": extracted * CLEANED * facts["stored_share"],
        "deduplicated text, and each later stage's": (chosen + len(KEPT_COPIES) * kept) * facts["stored_share"],
        "signatures, while they are compared": extracted * CLEANED / facts["document_bytes"] * signature,
        "token files": tokens * (4 if recipe.pretrain.model.vocab_size > 65_536 else 2),
    }
    return {
        "tokens": tokens,
        "text_bytes": kept,
        "extracted_bytes": extracted,
        "measured": {"file": measured["file"], "date": measured["date"], "cpu": measured["host"]["cpu"]},
        "cores": cores,
        "stages": stages,
        "core_hours": sum(stage["core_hours"] for stage in stages),
        "hours": sum(stage["hours"] for stage in stages),
        "storage": storage,
        "storage_bytes": sum(storage.values()),
    }


def read_rates() -> dict[str, Any] | None:
    """The newest measurement that has rates, with the name of its ``file``."""
    for file in sorted(RESULTS.glob("*-data.json"), reverse=True):
        found = json.loads(file.read_text(encoding="utf-8"))
        if "rates" in found:
            return {**found, "file": file.name}
    return None


__all__ = ["COMMAND", "CORES_PER_GPU", "plan_data", "read_rates"]
