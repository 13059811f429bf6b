"""``Views``: what pages ask of the catalog, aggregated in SQL. It reads only, and never a column that nobody shows."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import Any

from sqlalchemy import case, func, select

from infra.catalog.database import Database
from infra.catalog.models import Alias, Artifact, Edge, Run, Stage

Row = dict[str, Any]


@dataclass(frozen=True)
class Promotion:
    """From ``since`` on, ``alias`` meant ``digest``."""

    alias: str
    digest: str
    run_id: str | None
    since: datetime


class Views(Database):
    """Read-only questions over many rows."""

    def runs(self, limit: int = 1000) -> list[Row]:
        """Newest first: id, name, state, started_at, ended_at, seed, error. Without their recipes, which are long."""
        columns = (Run.id, Run.name, Run.state, Run.started_at, Run.ended_at, Run.seed, Run.error)
        return self._rows(select(*columns).order_by(Run.started_at.desc(), Run.id).limit(limit))

    def run_states(self) -> dict[str, int]:
        """Number of runs by state."""
        counts = select(Run.state, func.count()).group_by(Run.state).order_by(Run.state)
        return self._read(lambda session: {str(state): int(count) for state, count in session.execute(counts)})

    def hosts(self) -> list[Row]:
        """host, running, runs, latest: of every machine that has driven a run, the busiest first."""
        running = func.sum(case((Run.state == "running", 1), else_=0)).label("running")
        latest = func.max(Run.started_at).label("latest")
        query = select(Run.host, running, func.count().label("runs"), latest).group_by(Run.host)
        return self._rows(query.order_by(running.desc(), latest.desc()))

    def running(self) -> list[Row]:
        """id, name, host, pid of the runs that are at work."""
        query = select(Run.id, Run.name, Run.host, Run.pid).where(Run.state == "running")
        return self._rows(query.order_by(Run.started_at.desc()))

    def stored_by_kind(self) -> list[Row]:
        """kind, artifacts, bytes of everything that the catalog knows to be stored."""
        total = func.sum(Artifact.bytes)
        query = select(Artifact.kind, func.count().label("artifacts"), total.label("bytes"))
        return self._rows(query.group_by(Artifact.kind).order_by(total.desc()))

    def checkpoints(self, limit: int = 1000, digests: Collection[str] = ()) -> list[Row]:
        """Newest first: digest, stage, created_at, bytes, final_loss. ``digests`` are among them however old."""
        loss = Artifact.summary["final_loss"].as_float().label("final_loss")
        columns = (Artifact.digest, Artifact.stage, Artifact.created_at, Artifact.bytes, loss)
        checkpoints = select(*columns).where(Artifact.kind == "checkpoint")
        newest = checkpoints.order_by(Artifact.created_at.desc(), Artifact.digest).limit(limit)
        rows = self._rows(newest)
        missing = set(digests) - {row["digest"] for row in rows}
        return rows + (self._rows(checkpoints.where(Artifact.digest.in_(missing))) if missing else [])

    def artifact_summary(self, digest: str) -> dict[str, Any]:
        """What the stage said of the artifact; empty where the catalog does not know it."""
        query = select(Artifact.summary).where(Artifact.digest == digest)
        return self._read(lambda session: session.scalar(query)) or {}

    def edges_among(self, digests: Collection[str]) -> list[tuple[str, str]]:
        """(parent, child) of these artifacts."""
        query = select(Edge.parent, Edge.child).where(Edge.child.in_(digests), Edge.parent.in_(digests)).distinct()
        return self._read(lambda session: [(parent, child) for parent, child in session.execute(query)])

    def promotions(self, limit: int = 500) -> Sequence[Promotion]:
        """Of all aliases, newest first."""
        columns = (Alias.alias, Alias.digest, Alias.run_id, Alias.moved_at)
        query = select(*columns).order_by(Alias.id.desc()).limit(limit)
        return self._read(lambda session: [Promotion(*row) for row in session.execute(query)])

    def typical_seconds(self, recipe: str, runs: int = 20) -> dict[str, float]:
        """Median seconds of every stage over the latest ``runs`` of a recipe that completed it."""
        latest = (
            select(Run.id)
            .where(Run.name.startswith(f"{recipe}-", autoescape=True))
            .order_by(Run.started_at.desc())
            .limit(runs)
        )
        query = select(Stage.stage, Stage.seconds).where(
            Stage.run_id.in_(latest), Stage.state == "completed", Stage.seconds.is_not(None)
        )
        by_stage: dict[str, list[float]] = {}
        for row in self._rows(query):
            by_stage.setdefault(row["stage"], []).append(row["seconds"])
        return {stage: median(seconds) for stage, seconds in by_stage.items()}

    def _rows(self, query: Any) -> list[Row]:
        return self._read(lambda session: [dict(row) for row in session.execute(query).mappings()])


__all__ = ["Promotion", "Views"]
