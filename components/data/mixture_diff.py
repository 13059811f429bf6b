"""Two mixtures (or corpora) beside each other: shares, factors and documents that came or went, by domain."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from components.data.documents import read_documents
from components.data.mixture_solver import total_variation


def difference(first: Path, second: Path) -> dict[str, Any]:
    """What ``second`` has otherwise than ``first``; both are folders of ``documents-*.parquet``.

    A document is the same where its id, the hash of its text, is. By domain: ``share`` of the bytes, copies included;
    ``factor``, that share over the natural one before the mixture was made (None for a corpus); ``documents`` and
    mean ``copies``, each as (first, second); documents and bytes ``in`` and ``out``; ``recounted`` documents, which
    are seen more or less often; ``moved`` ones, which have come from another domain.
    """
    tables = table(first), table(second)
    sizes = [side.assign(mixed=side["bytes"] * side["copies"]).groupby("domain")["mixed"].sum() for side in tables]
    shares = [{str(domain): float(size / of.sum()) for domain, size in of.items()} for of in sizes]
    natural = natural_shares(first), natural_shares(second)
    joined = tables[0].merge(tables[1], how="outer", left_index=True, right_index=True, suffixes=("_a", "_b"))
    came, went = joined["domain_a"].isna(), joined["domain_b"].isna()
    both = ~came & ~went
    recounted = both & (joined["copies_a"] != joined["copies_b"])
    moved = both & (joined["domain_a"] != joined["domain_b"])
    domains = {}
    for domain in sorted({*shares[0], *shares[1]}, key=lambda name: (-shares[1].get(name, 0.0), name)):
        here_a, here_b = joined["domain_a"] == domain, joined["domain_b"] == domain
        domains[domain] = {
            "share": [side.get(domain, 0.0) for side in shares],
            "factor": [
                share.get(domain, 0.0) / before[domain] if before.get(domain) else None
                for share, before in zip(shares, natural, strict=True)
            ],
            "documents": [int(here_a.sum()), int(here_b.sum())],
            "copies": [mean(joined["copies_a"][here_a]), mean(joined["copies_b"][here_b])],
            "in": {"documents": int((came & here_b).sum()), "bytes": int(joined["bytes_b"][came & here_b].sum())},
            "out": {"documents": int((went & here_a).sum()), "bytes": int(joined["bytes_a"][went & here_a].sum())},
            "recounted": int((recounted & here_b).sum()),
            "moved": int((moved & here_b).sum()),
        }
    return {
        "total_variation": total_variation(*shares),
        "documents": [len(side) for side in tables],
        "bytes": [int(of.sum()) for of in sizes],
        "in": int(came.sum()),
        "out": int(went.sum()),
        "recounted": int(recounted.sum()),
        "moved": int(moved.sum()),
        "domains": domains,
    }


def table(folder: Path) -> pd.DataFrame:
    """Domain, bytes and copies of every document, by id; a text that is there twice counts as copies."""
    rows = [(d.id, d.domain or "other", len(d.text.encode()), d.copies) for d in read_documents(folder)]
    made = pd.DataFrame(rows, columns=["id", "domain", "bytes", "copies"])
    return made.groupby("id").agg({"domain": "first", "bytes": "first", "copies": "sum"})


def natural_shares(folder: Path) -> dict[str, float]:
    """Shares before the mixture was made, by domain; empty for what is no mixture."""
    file = folder / "mixture.json"
    return json.loads(file.read_text(encoding="utf-8"))["before"] if file.is_file() else {}


def mean(values: "pd.Series[Any]") -> float:
    return round(float(values.mean()), 4) if len(values) else 0.0
