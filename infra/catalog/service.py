"""``Catalog``: the one way to write and read the catalog. Every call is one transaction of its own."""

import getpass
import os
import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from infra.catalog.aliases import ANYTHING, move_alias
from infra.catalog.database import Database, is_alive
from infra.catalog.models import Alias, Artifact, Edge, Run, RunState, Stage, StageState
from infra.errors import InfraError
from infra.manifest import Manifest, now


@dataclass(frozen=True)
class Lineage:
    """An artifact's whole history: everything it was made from, and how."""

    digest: str
    artifacts: list[Artifact]
    edges: list[Edge]


class Catalog(Database):
    """Runs, stages, artifacts, lineage and promotions. Safe to use from several threads and processes."""

    def __init__(self, url: str, *, patience: float = 60.0) -> None:
        super().__init__(url, patience=patience)
        self._own_runs: set[str] = set()

    # Runs

    def start_run(
        self, *, name: str, recipe: Mapping[str, Any], recipe_digest: str, seed: int,
        stages: Sequence[str] = (), mlflow_run_id: str | None = None, flow_run_id: str | None = None,
    ) -> str:  # fmt: skip
        """Enter a run with its ``stages`` pending; returns its id. Runs whose process died are marked stopped."""
        run_id = secrets.token_hex(6)
        self._own_runs.add(run_id)

        def work(session: Session) -> str:
            self._stop_dead_runs(session)
            session.merge(
                Run(
                    id=run_id, name=name, recipe=dict(recipe), recipe_digest=recipe_digest, seed=seed, state="running",
                    started_at=now(), mlflow_run_id=mlflow_run_id, flow_run_id=flow_run_id,
                    host=socket.gethostname(), pid=os.getpid(),
                )
            )  # fmt: skip
            session.flush()
            session.add_all(
                Stage(run_id=run_id, stage=stage, state="pending", attempts=0, metrics={}) for stage in stages
            )
            return run_id

        return self._write(work)

    def finish_run(self, run_id: str, state: RunState, *, error: str | None = None) -> None:
        """Close a run; its stages that are still running get the same state, those pending stay so."""

        def work(session: Session) -> None:
            run = self._one(session, Run, run_id, "run")
            run.state, run.ended_at, run.error = state, now(), error
            self._close_stages(session, run_id, state)

        self._write(work)

    def get_run(self, run_id: str = "latest") -> Run:
        """The run of this id (or unambiguous beginning of one), or the ``latest`` started."""

        def work(session: Session) -> Run:
            query = select(Run).order_by(Run.started_at.desc(), Run.id).limit(2)
            if run_id != "latest":
                query = query.where(Run.id.startswith(run_id, autoescape=True))
            found = session.scalars(query).all()
            if not found:
                what = "no run yet" if run_id == "latest" else f"no run {run_id!r}"
                raise InfraError(f"{what} in the catalog; start one with `qwenforge run`")
            if len(found) > 1 and run_id != "latest":
                raise InfraError(f"several runs start with {run_id!r}; give more of the id")
            return found[0]

        return self._read(work)

    def run_of_flow(self, flow_run_id: str) -> Run | None:
        """The latest start of a Prefect flow run, which may have been retried or resumed."""
        query = select(Run).where(Run.flow_run_id == flow_run_id).order_by(Run.started_at.desc()).limit(1)
        return self._read(lambda session: session.scalars(query).first())

    def list_runs(self, limit: int = 100) -> Sequence[Run]:
        """Runs, newest first."""
        return self._read(
            lambda session: session.scalars(select(Run).order_by(Run.started_at.desc(), Run.id).limit(limit)).all()
        )

    # Stages

    def start_stage(
        self, run_id: str, stage: str, *, cache_key: str | None = None, mlflow_run_id: str | None = None
    ) -> int:
        """A stage begins, or begins again after a failure; returns the id for ``finish_stage``."""

        def work(session: Session) -> int:
            row = session.scalars(select(Stage).where(Stage.run_id == run_id, Stage.stage == stage)).one_or_none()
            if row is None:
                self._one(session, Run, run_id, "run")
                row = Stage(run_id=run_id, stage=stage, attempts=0, metrics={})
                session.add(row)
            row.state, row.error, row.ended_at, row.seconds = "running", None, None, None
            row.doing = row.progress = row.seconds_left = None
            row.cache_key, row.mlflow_run_id = cache_key, mlflow_run_id
            row.started_at, row.attempts = now(), row.attempts + 1
            session.flush()
            return row.id

        return self._write(work)

    def finish_stage(
        self, stage_id: int, state: StageState, *, artifact_digest: str | None = None,
        seconds: float | None = None, error: str | None = None, metrics: Mapping[str, Any] | None = None,
        attempts: int | None = None,
    ) -> None:  # fmt: skip
        """A stage has ended. ``seconds`` defaults to the time since ``start_stage``."""

        def work(session: Session) -> None:
            row = self._one(session, Stage, stage_id, "stage")
            row.state, row.artifact_digest, row.error, row.ended_at = state, artifact_digest, error, now()
            row.metrics = dict(metrics or {})
            row.attempts = row.attempts if attempts is None else attempts
            elapsed = (row.ended_at - row.started_at).total_seconds() if row.started_at else None
            row.seconds = elapsed if seconds is None else seconds

        self._write(work)

    def note_progress(self, stage_id: int, doing: str, share: float, seconds_left: float | None) -> bool:
        """How far a running stage is, for people to see. One try, for a job must not wait; whether it went well."""
        values = {"doing": doing[:64], "progress": share, "seconds_left": seconds_left}
        try:
            with self._engine.connect().execution_options(write=True) as connection, connection.begin():
                connection.execute(update(Stage).where(Stage.id == stage_id).values(**values))
        except SQLAlchemyError:
            return False
        return True

    def stages_of(self, run_id: str) -> Sequence[Stage]:
        """A run's stages in the order they were entered."""
        return self._read(
            lambda session: session.scalars(select(Stage).where(Stage.run_id == run_id).order_by(Stage.id)).all()
        )

    # Artifacts

    def record_artifact(self, manifest: Manifest) -> None:
        """Enter a committed artifact and its edges; again is no error."""

        def work(session: Session) -> None:
            digest = manifest.digest
            session.merge(
                Artifact(
                    digest=digest, kind=manifest.kind, stage=manifest.stage, bytes=manifest.size,
                    files=len(manifest.files), summary=manifest.summary, created_at=manifest.created_at,
                )
            )  # fmt: skip
            session.flush()
            for name, parent in manifest.inputs.items():
                session.merge(Edge(child=digest, input_name=name, parent=parent))

        self._write(work)

    def artifacts(self, *, kind: str | None = None, stage: str | None = None, limit: int = 1000) -> Sequence[Artifact]:
        """Artifacts, newest first, perhaps of one kind or one stage only."""
        query = select(Artifact).order_by(Artifact.created_at.desc(), Artifact.digest).limit(limit)
        if kind is not None:
            query = query.where(Artifact.kind == kind)
        if stage is not None:
            query = query.where(Artifact.stage == stage)
        return self._read(lambda session: session.scalars(query).all())

    def lineage(self, digest: str) -> Lineage:
        """All ancestors of an artifact, itself included, and the edges between them."""

        def work(session: Session) -> Lineage:
            self._one(session, Artifact, digest, "artifact")
            above = select(Edge.parent).where(Edge.child == digest).cte("above", recursive=True)
            above = above.union(select(Edge.parent).where(Edge.child == above.c.parent))  # drops repeats: ends
            members = select(above.c.parent)
            artifacts = session.scalars(
                select(Artifact)
                .where((Artifact.digest == digest) | Artifact.digest.in_(members))
                .order_by(Artifact.created_at, Artifact.digest)
            ).all()
            edges = session.scalars(
                select(Edge)
                .where((Edge.child == digest) | Edge.child.in_(members))
                .order_by(Edge.child, Edge.input_name)
            ).all()
            return Lineage(digest, list(artifacts), list(edges))

        return self._read(work)

    # Promotions

    def set_alias(
        self, alias: str, digest: str, run_id: str | None = None, *, who: str = "", action: str = "set alias",
        expected: str | None = None, reason: str = "",
    ) -> bool:  # fmt: skip
        """From now on ``alias`` means ``digest``, whatever it is worth; False when it does already.

        For what a run has made, an import, or a step back. A promotion is measured first: ``Gates``. ``who`` defaults
        to the run, or to the system's user. With ``expected`` the alias moves only if that is what it means now.
        """
        who = who or (f"run {run_id}" if run_id else getpass.getuser())

        def work(session: Session) -> bool:
            return move_alias(
                session, alias, digest, who=who, action=action, run_id=run_id, expected=expected or ANYTHING,
                reason=reason or None,
            )  # fmt: skip

        return self._write(work)

    def resolve_alias(self, alias: str) -> str | None:
        """The digest that ``alias`` means now."""
        history = self.alias_history(alias)
        return history[0].digest if history else None

    def aliases(self) -> dict[str, str]:
        """What every alias means now."""
        query = select(Alias).order_by(Alias.id)  # a later promotion replaces an earlier one
        return self._read(lambda session: {row.alias: row.digest for row in session.scalars(query)})

    def alias_history(self, alias: str) -> Sequence[Alias]:
        """Every promotion of an alias, newest first."""
        query = select(Alias).where(Alias.alias == alias).order_by(Alias.id.desc())
        return self._read(lambda session: session.scalars(query).all())

    @staticmethod
    def _close_stages(session: Session, run_id: str, state: StageState) -> None:
        for stage in session.scalars(select(Stage).where(Stage.run_id == run_id, Stage.state == "running")):
            stage.state, stage.ended_at = state, now()

    def _stop_dead_runs(self, session: Session) -> None:
        """A process killed with -9 cannot close its run; the next one on this host does."""
        running = select(Run).where(Run.state == "running", Run.host == socket.gethostname())
        for run in session.scalars(running).all():
            if run.id not in self._own_runs and (run.pid == os.getpid() or not is_alive(run.pid)):
                run.state, run.ended_at, run.error = "stopped", now(), "its process ended without a word"
                self._close_stages(session, run.id, "stopped")


__all__ = ["Catalog", "Lineage"]
