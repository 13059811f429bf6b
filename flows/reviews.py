"""``qwenforge reviews``: preference pairs to people, and their verdicts back into a recipe."""

import json
from itertools import combinations
from pathlib import Path
from typing import Any

from flows.errors import UsageError
from flows.report import find_run
from flows.terminal import stdout, table
from infra.catalog import Catalog, Reviews
from infra.catalog.reviews import Judged, item_of
from infra.settings import load_settings
from infra.store import open_store


def queue_command(run: str, limit: int) -> tuple[int, int]:
    """Queue up to ``limit`` pairs of a run; returns how many are new and how many the queue then has."""
    from components.preference.pair_store import read_pairs

    settings = load_settings()
    catalog, store = Catalog(settings.catalog_url), open_store(settings)
    found = find_run(catalog, run)
    digest = next((s.artifact_digest for s in catalog.stages_of(found.id) if s.stage == "pairs"), None)
    if digest is None:
        raise UsageError(f"run {found.name} ({found.state}) has no pairs: its pairs stage has not finished")
    pairs = read_pairs(store.open(digest))
    chosen = pairs if len(pairs) <= limit else [pairs[i * len(pairs) // limit] for i in range(limit)]  # by family
    reviews = Reviews(settings.catalog_url)
    added = reviews.queue(item_of(vars(pair), digest) for pair in chosen)
    return added, reviews.counts()[0]


def export_command(target: Path) -> tuple[int, int]:
    """Write the verdicts that labellers agree on; returns their number and that of the divided ones."""
    from components.training.checkpoint import write_atomically

    judged = Reviews(load_settings().catalog_url).judged()
    decided = [pair for pair in judged if pair.verdict]
    if not decided:
        raise UsageError("nobody has judged a pair yet: qwenforge reviews queue, then the dashboard's Preferences page")
    target.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(_row(pair), ensure_ascii=False) for pair in decided]
    write_atomically(target, ("\n".join(lines) + "\n").encode())
    return len(decided), len(judged) - len(decided)


def print_status() -> None:
    """Counts, and the agreement of every two labellers who judged the same pairs."""
    from components.evaluation.agreement import cohens_kappa

    reviews = Reviews(load_settings().catalog_url)
    judged = reviews.judged()
    console = stdout()
    console.print(f"{reviews.counts()[0]} pairs in the queue, {len(judged)} judged")
    by_labeller: dict[str, dict[str, str]] = {}
    for pair in judged:
        for review in pair.reviews:
            by_labeller.setdefault(review.labeller, {})[pair.item.key] = review.verdict
    automated = {pair.item.key: pair.item.automated for pair in judged}
    rows = []
    for one, other in combinations([*by_labeller, "the verifier"], 2):
        found = cohens_kappa(by_labeller[one], by_labeller.get(other, automated))
        rows.append([one, other, found.n, f"{found.agreement:.0%}" if found.n else "", _number(found.kappa)])
    if rows:
        columns = {"labeller": "left", "and": "left", "pairs": "right", "same verdict": "right", "kappa": "right"}
        console.print(table("", columns, rows))


def _row(pair: Judged) -> dict[str, Any]:
    item = pair.item
    criteria = {name: better for name in _criteria(pair) if (better := pair.criterion(name))}
    return {
        "id": item.pair_id, "split": item.split, "task": item.task, "messages": item.messages, "a": item.answer_a,
        "b": item.answer_b, "verdict": pair.verdict, "criteria": criteria,
    }  # fmt: skip


def _criteria(pair: Judged) -> list[str]:
    return sorted({name for review in pair.reviews for name in review.criteria})


def _number(kappa: float | None) -> str:
    return "" if kappa is None else f"{kappa:.2f}"
