"""Solves for the bytes of each domain and picks the documents that make them up."""

import json
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from components.data.documents import Document, read_documents, write_documents
from components.stage import Inputs, Run, StageError, Summary, effect

if TYPE_CHECKING:
    from components.data.mixture import MixtureConfig

Shares = dict[str, float]


def write_mixture(config: "MixtureConfig", inputs: Inputs, run: Run) -> Summary:
    """See ``components.data.mixture.mix``. Two passes over the documents; only a row for each is held in memory."""

    def documents() -> Iterator[Document]:
        return chain(read_documents(inputs["documents"]), read_documents(inputs["synthetic"]))

    table = document_table(documents())
    if table.empty:
        raise StageError("mixture: no documents came in; lower the thresholds of the quality stage")
    facts = choose(table, config, run.seed)

    def mixed() -> Iterator[Document]:
        for document, copies in zip(documents(), table["copies"].tolist(), strict=True):
            if copies:
                document.domain = document.domain or "other"
                document.copies = copies
                yield document

    count = write_documents(run.output, mixed())
    before, target, after, unmet = (facts[name] for name in ("before", "target", "after", "unmet"))
    (run.output / "mixture.json").write_text(json.dumps(facts, indent=1, sort_keys=True))
    return {
        "documents": count,
        "bytes": int(table["mixed"].sum()),
        "distinct_bytes": int(table.loc[table["copies"] > 0, "bytes"].sum()),
        "dropped_documents": int((table["copies"] == 0).sum()),
        "mean_quality": {
            "before": round(float(np.average(table["quality"], weights=table["bytes"])), 4),
            "after": round(float(np.average(table["quality"], weights=table["mixed"])), 4),
        },
        **facts,
        "effects": [
            effect(
                "distance of domain shares to target",
                total_variation(after, target),
                total_variation(before, target),
                unit="total variation",
                better="lower",
                note="; ".join(unmet.values()) or "every target met",
            )
        ],
    }


def document_table(documents: Iterable[Document]) -> pd.DataFrame:
    """Domain, bytes and overall quality, a row for each document."""
    return pd.DataFrame(
        [
            (document.domain or "other", len(document.text.encode()), document.quality.get("overall", 0.5))
            for document in documents
        ],
        columns=["domain", "bytes", "quality"],
    )


def choose(table: pd.DataFrame, config: "MixtureConfig", seed: int) -> dict[str, Any]:
    """Add the columns ``copies`` and ``mixed`` (bytes, copies included) to ``table``; shares before, wanted and after,
    and what could not be met."""
    available = table.groupby("domain")["bytes"].sum().astype(int).to_dict()
    target = target_shares(available, config.factors, config.shares)
    wanted, unmet = allocate(available, target, config.budget_bytes, config.maximum_copies)
    table["copies"] = _copies(table, wanted, config, seed)
    table["mixed"] = table["bytes"] * table["copies"]
    if not table["mixed"].any():
        raise StageError(f"mixture: no document fits into {config.budget_bytes:,} bytes; raise mixture.budget_bytes")
    after = _normalised(table.groupby("domain")["mixed"].sum().to_dict())
    return {"before": _normalised(available), "target": target, "after": after, "unmet": unmet}


def target_shares(available: dict[str, int], factors: Shares, fixed: Shares) -> Shares:
    """Target share of each domain that there are bytes of: ``fixed`` as given, the rest by factor x natural share.

    The share of a fixed domain that has no documents goes to the others.
    """
    fixed = {domain: share for domain, share in fixed.items() if available.get(domain)}
    free = {
        domain: size * factors.get(domain, 1.0) for domain, size in available.items() if size and domain not in fixed
    }
    total_fixed, total_free = sum(fixed.values()), sum(free.values())
    if total_fixed > 1 or (total_fixed == 1 and total_free > 0):
        raise StageError(
            f"mixture: the fixed shares sum to {total_fixed:.3f} and leave nothing to "
            f"{', '.join(sorted(free)) or 'others'}; lower mixture.shares"
        )
    scale = (1 - total_fixed) / total_free if total_free else 0.0
    shares = {domain: weight * scale for domain, weight in free.items()} | fixed
    return _normalised(shares)


def allocate(
    available: dict[str, int], target: Shares, budget: int, maximum_copies: int
) -> tuple[dict[str, float], dict[str, str]]:
    """Bytes of each domain (copies included), and what could not be met, in words, by domain.

    Water-filling: a domain whose target exceeds ``maximum_copies`` of what it has gets all of that; what it
    leaves goes to the others in proportion to their targets, until none exceeds its limit.
    """
    limits = {domain: float(available[domain] * maximum_copies) for domain in target}
    wanted: dict[str, float] = {}
    open_domains = {domain for domain, share in target.items() if share > 0}
    left = float(budget)
    while open_domains:
        total = sum(target[domain] for domain in open_domains)
        level = {domain: left * target[domain] / total for domain in sorted(open_domains)}
        full = {domain for domain, size in level.items() if size > limits[domain]}
        if not full:
            wanted |= level
            break
        wanted |= {domain: limits[domain] for domain in full}
        left -= sum(limits[domain] for domain in full)
        open_domains -= full
    unmet = {
        domain: f"{domain}: {target[domain]:.1%} wanted, {wanted[domain] / budget:.1%} is there "
        f"at {maximum_copies} copies"
        for domain in sorted(wanted)
        if wanted[domain] < target[domain] * budget * (1 - 1e-9)
    }
    return wanted, unmet


def _copies(table: pd.DataFrame, wanted: dict[str, float], config: "MixtureConfig", seed: int) -> np.ndarray:
    """How many copies of each row are used.

    With r = wanted / available bytes every document of the domain gets floor(r) copies, and the preferred ones one
    more, until the bytes are reached. Preference mixes the quality's rank with chance.
    """
    chance = np.random.default_rng([seed, 0]).random(len(table))
    rank = table.groupby("domain")["quality"].rank(pct=True).to_numpy()
    preference = config.quality_preference * rank + (1 - config.quality_preference) * chance
    sizes = table["bytes"].to_numpy()
    copies = np.zeros(len(table), dtype=np.int64)
    for domain, rows in table.groupby("domain").indices.items():
        size = float(wanted.get(str(domain), 0.0))
        whole = int(size // sizes[rows].sum())
        copies[rows] = whole
        order = rows[np.argsort(-preference[rows], kind="stable")]
        rest = size - whole * sizes[rows].sum()
        copies[order[np.cumsum(sizes[order]) <= rest]] += 1
    return np.minimum(copies, config.maximum_copies)


def total_variation(shares: Shares, target: Shares) -> float:
    """Total variation distance of two distributions over domains, in [0, 1]."""
    return 0.5 * sum(abs(shares.get(d, 0.0) - target.get(d, 0.0)) for d in sorted({*shares, *target}))


def _normalised(sizes: dict[str, float] | dict[str, int]) -> Shares:
    total = sum(sizes.values())
    return {str(domain): round(float(sizes[domain] / total), 6) for domain in sorted(sizes)}
