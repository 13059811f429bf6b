"""Tables of the catalog, as SQLAlchemy 2 typed models. Every change needs a migration: a test compares the two."""

from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Index,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
)  # fmt: skip
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

RunState = Literal["running", "completed", "failed", "stopped"]
StageState = Literal["pending", "running", "cached", "completed", "failed", "stopped"]
GateState = Literal["waiting", "running", "passed", "refused", "failed"]


class UTCDateTime(TypeDecorator[datetime]):
    """An aware time in UTC. SQLite keeps no time zone, so the zone is put back when reading."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    # Named constraints, so that migrations can name them on every database.
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {dict[str, Any]: JSON, datetime: UTCDateTime()}  # noqa: RUF012 (SQLAlchemy's own form)


class Run(Base):
    """One execution of a recipe."""

    __tablename__ = "runs"
    __table_args__ = (
        CheckConstraint("state IN ('running', 'completed', 'failed', 'stopped')", name="state"),
        Index("ix_runs_started_at", "started_at"),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    recipe: Mapped[dict[str, Any]]
    recipe_digest: Mapped[str] = mapped_column(String(64), index=True)
    seed: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[RunState] = mapped_column(String(16))
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    mlflow_run_id: Mapped[str | None] = mapped_column(String(64))
    flow_run_id: Mapped[str | None] = mapped_column(String(64))
    host: Mapped[str] = mapped_column(String(255))
    pid: Mapped[int] = mapped_column(comment="of the process that drives the run, on host")
    error: Mapped[str | None] = mapped_column(Text)


class Stage(Base):
    """One stage of one run."""

    __tablename__ = "stages"
    __table_args__ = (
        UniqueConstraint("run_id", "stage"),
        CheckConstraint("state IN ('pending', 'running', 'cached', 'completed', 'failed', 'stopped')", name="state"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"))
    stage: Mapped[str] = mapped_column(String(64))
    state: Mapped[StageState] = mapped_column(String(16))
    cache_key: Mapped[str | None] = mapped_column(String(200), index=True)
    artifact_digest: Mapped[str | None] = mapped_column(String(64), index=True)
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    seconds: Mapped[float | None] = mapped_column(Double)
    attempts: Mapped[int]
    error: Mapped[str | None] = mapped_column(Text)
    mlflow_run_id: Mapped[str | None] = mapped_column(String(64))
    metrics: Mapped[dict[str, Any]]
    doing: Mapped[str | None] = mapped_column(String(64), comment="what its progress bar shows")
    progress: Mapped[float | None] = mapped_column(Double, comment="share of it that is done")
    seconds_left: Mapped[float | None] = mapped_column(Double, comment="of it, at the rate so far")


class Artifact(Base):
    """What the catalog knows about a stored artifact; the store alone has its bytes."""

    __tablename__ = "artifacts"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    kind: Mapped[str] = mapped_column(String(32), index=True)
    stage: Mapped[str] = mapped_column(String(64), index=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    files: Mapped[int]
    summary: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]


class Edge(Base):
    """``child`` was made from ``parent``, which its stage calls ``input_name``."""

    __tablename__ = "artifact_edges"

    child: Mapped[str] = mapped_column(ForeignKey("artifacts.digest", ondelete="CASCADE"), primary_key=True)
    input_name: Mapped[str] = mapped_column(String(64), primary_key=True)
    # No foreign key: an artifact made elsewhere may be recorded before the ones that it was made from.
    parent: Mapped[str] = mapped_column(String(64), index=True)


class Alias(Base):
    """One promotion: from ``moved_at`` on, ``alias`` means ``digest``. The newest row is in force."""

    __tablename__ = "aliases"

    id: Mapped[int] = mapped_column(primary_key=True)
    alias: Mapped[str] = mapped_column(String(64), index=True)
    digest: Mapped[str] = mapped_column(String(64))
    run_id: Mapped[str | None] = mapped_column(ForeignKey("runs.id", ondelete="SET NULL"))
    moved_at: Mapped[datetime]


class ReviewItem(Base):
    """A preference pair in the human review queue. Which answer is ``a`` says nothing of which one was chosen."""

    __tablename__ = "review_items"
    __table_args__ = (CheckConstraint("automated IN ('a', 'b')", name="automated"),)

    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    pair_id: Mapped[str] = mapped_column(String(200))
    task: Mapped[str] = mapped_column(String(64))
    split: Mapped[str] = mapped_column(String(16))
    messages: Mapped[list[dict[str, str]]] = mapped_column(JSON)
    answer_a: Mapped[str] = mapped_column(Text)
    answer_b: Mapped[str] = mapped_column(Text)
    automated: Mapped[str] = mapped_column(String(1), comment="the answer that the pipeline has chosen")
    score_a: Mapped[float] = mapped_column(Double)
    score_b: Mapped[float] = mapped_column(Double)
    source: Mapped[str] = mapped_column(String(64), comment="digest of the preferences artifact")
    queued_at: Mapped[datetime]


class Review(Base):
    """One labeller's verdict on one pair."""

    __tablename__ = "reviews"
    __table_args__ = (
        UniqueConstraint("key", "labeller"),
        CheckConstraint("verdict IN ('a', 'b', 'tie', 'bad')", name="verdict"),
        Index("ix_reviews_labeller", "labeller"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(ForeignKey("review_items.key", ondelete="CASCADE"))
    labeller: Mapped[str] = mapped_column(String(64))
    verdict: Mapped[str] = mapped_column(String(8))
    criteria: Mapped[dict[str, Any]]
    swapped: Mapped[bool] = mapped_column(comment="answer b was shown first")
    seconds: Mapped[float] = mapped_column(Double)
    created_at: Mapped[datetime]


class User(Base):
    """A person who may log in to the dashboard."""

    __tablename__ = "users"
    __table_args__ = (CheckConstraint("role IN ('viewer', 'labeller', 'operator')", name="role"),)

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    role: Mapped[str] = mapped_column(String(16))
    password_hash: Mapped[str] = mapped_column(String(255))
    created_at: Mapped[datetime]


class Gate(Base):
    """One promotion that was asked for: what the suite compared and found, before the alias moved or did not."""

    __tablename__ = "gates"
    __table_args__ = (
        CheckConstraint("state IN ('waiting', 'running', 'passed', 'refused', 'failed')", name="state"),
        Index("ix_gates_alias", "alias"),
        Index("ix_gates_after", "after"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    alias: Mapped[str] = mapped_column(String(64))
    before: Mapped[str | None] = mapped_column(
        String(64), comment="what the alias meant; nothing is compared with nothing"
    )
    after: Mapped[str] = mapped_column(String(64))
    suite: Mapped[int | None] = mapped_column(comment="version of the suite")
    state: Mapped[GateState] = mapped_column(String(16))
    who: Mapped[str] = mapped_column(String(64))
    asked_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    host: Mapped[str | None] = mapped_column(String(255))
    pid: Mapped[int | None] = mapped_column(comment="of the process that measures, on host")
    doing: Mapped[str | None] = mapped_column(String(64), comment="what its progress bar shows")
    progress: Mapped[float | None] = mapped_column(Double, comment="share of it that is done")
    differences: Mapped[list[dict[str, Any]]] = mapped_column(
        JSON, comment="a row a metric, with interval and p-values"
    )
    worse: Mapped[list[str]] = mapped_column(JSON, comment="metrics that fell significantly")
    error: Mapped[str | None] = mapped_column(Text)


class AuditEntry(Base):
    """Who did what to what, when, and from what state to what state."""

    __tablename__ = "audit"
    __table_args__ = (Index("ix_audit_subject", "subject"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    who: Mapped[str] = mapped_column(String(64))
    action: Mapped[str] = mapped_column(String(32))
    subject: Mapped[str] = mapped_column(String(200))
    before: Mapped[str | None] = mapped_column(String(200))
    after: Mapped[str | None] = mapped_column(String(200))
    reason: Mapped[str | None] = mapped_column(Text, comment="why it was done against a verdict, or undone")
    gate_id: Mapped[int | None] = mapped_column(ForeignKey("gates.id"))


__all__ = [
    "Alias", "Artifact", "AuditEntry", "Base", "Edge", "Gate", "GateState", "Review", "ReviewItem", "Run",
    "RunState", "Stage", "StageState", "UTCDateTime", "User",
]  # fmt: skip
