"""How far two labellers agree beyond chance: Cohen's kappa (1960)."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Agreement:
    """Of ``n`` items that both have judged. ``kappa`` is None where chance alone explains everything or n is 0."""

    n: int
    agreement: float
    kappa: float | None


def cohens_kappa(one: Mapping[str, str], other: Mapping[str, str]) -> Agreement:
    """Agreement of two labellers' verdicts by item, over the items that both have judged."""
    from sklearn.metrics import cohen_kappa_score

    both = sorted(set(one) & set(other))
    if not both:
        return Agreement(0, 0.0, None)
    first, second = [one[item] for item in both], [other[item] for item in both]
    same = sum(a == b for a, b in zip(first, second, strict=True)) / len(both)
    # With a single verdict throughout, agreement by chance is certain and kappa is 0 / 0.
    kappa = None if len({*first, *second}) == 1 else float(cohen_kappa_score(first, second))
    return Agreement(len(both), same, kappa)
