"""First tables: runs, stages, artifacts, edges, aliases."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "runs",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("recipe", sa.JSON(), nullable=False),
        sa.Column("recipe_digest", sa.String(64), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("ended_at", TIME),
        sa.Column("mlflow_run_id", sa.String(64)),
        sa.Column("flow_run_id", sa.String(64)),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False, comment="of the process that drives the run, on host"),
        sa.Column("error", sa.Text()),
        sa.PrimaryKeyConstraint("id", name="pk_runs"),
        sa.CheckConstraint("state IN ('running', 'completed', 'failed', 'stopped')", name=op.f("ck_runs_state")),
    )
    op.create_index("ix_runs_started_at", "runs", ["started_at"])
    op.create_index("ix_runs_recipe_digest", "runs", ["recipe_digest"])
    op.create_table(
        "stages",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.String(32), nullable=False),
        sa.Column("stage", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("cache_key", sa.String(200)),
        sa.Column("artifact_digest", sa.String(64)),
        sa.Column("started_at", TIME),
        sa.Column("ended_at", TIME),
        sa.Column("seconds", sa.Double()),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text()),
        sa.Column("mlflow_run_id", sa.String(64)),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_stages"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_stages_run_id", ondelete="CASCADE"),
        sa.UniqueConstraint("run_id", "stage", name="uq_stages_run_id"),
        sa.CheckConstraint(
            "state IN ('pending', 'running', 'cached', 'completed', 'failed', 'stopped')",
            name=op.f("ck_stages_state"),
        ),
    )
    op.create_index("ix_stages_cache_key", "stages", ["cache_key"])
    op.create_index("ix_stages_artifact_digest", "stages", ["artifact_digest"])
    op.create_table(
        "artifacts",
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("stage", sa.String(64), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("files", sa.Integer(), nullable=False),
        sa.Column("summary", sa.JSON(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_artifacts"),
    )
    op.create_index("ix_artifacts_kind", "artifacts", ["kind"])
    op.create_index("ix_artifacts_stage", "artifacts", ["stage"])
    op.create_table(
        "artifact_edges",
        sa.Column("child", sa.String(64), nullable=False),
        sa.Column("input_name", sa.String(64), nullable=False),
        sa.Column("parent", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("child", "input_name", name="pk_artifact_edges"),
        sa.ForeignKeyConstraint(["child"], ["artifacts.digest"], name="fk_artifact_edges_child", ondelete="CASCADE"),
    )
    op.create_index("ix_artifact_edges_parent", "artifact_edges", ["parent"])
    op.create_table(
        "aliases",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("alias", sa.String(64), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("run_id", sa.String(32)),
        sa.Column("moved_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_aliases"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_aliases_run_id", ondelete="SET NULL"),
    )
    op.create_index("ix_aliases_alias", "aliases", ["alias"])


def downgrade() -> None:
    for table in ("aliases", "artifact_edges", "artifacts", "stages", "runs"):
        op.drop_table(table)
