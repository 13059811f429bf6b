"""The catalog: runs, stages, artifacts, their lineage and promotions; reviews of preference pairs; users and the audit.
In SQLite or Postgres. ``models`` holds the tables, ``migrations`` their history, ``service`` (runs), ``reviews`` and
``access`` the only code that queries them."""

from infra.catalog.models import Alias, Artifact, AuditEntry, Edge, Review, ReviewItem, Run, RunState, Stage, StageState
from infra.catalog.reviews import CRITERIA, Reviews
from infra.catalog.service import Catalog, Lineage

__all__ = [
    "CRITERIA", "Alias", "Artifact", "AuditEntry", "Catalog", "Edge", "Lineage", "Review", "ReviewItem", "Reviews",
    "Run", "RunState", "Stage", "StageState",
]  # fmt: skip
