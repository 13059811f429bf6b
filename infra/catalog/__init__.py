"""The catalog: runs, stages, artifacts, their lineage and promotions, in SQLite or Postgres. ``models`` holds the
tables, ``migrations`` their history, ``service`` the only code that queries them."""

from infra.catalog.models import Alias, Artifact, Edge, Run, RunState, Stage, StageState
from infra.catalog.service import Catalog, Lineage

__all__ = ["Alias", "Artifact", "Catalog", "Edge", "Lineage", "Run", "RunState", "Stage", "StageState"]
