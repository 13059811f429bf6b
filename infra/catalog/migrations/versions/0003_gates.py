"""Promotions through a gate: what was compared, what was found, and why somebody moved an alias all the same."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "gates",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("alias", sa.String(64), nullable=False),
        sa.Column("before", sa.String(64), comment="what the alias meant; nothing is compared with nothing"),
        sa.Column("after", sa.String(64), nullable=False),
        sa.Column("suite", sa.Integer(), comment="version of the suite"),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("who", sa.String(64), nullable=False),
        sa.Column("asked_at", TIME, nullable=False),
        sa.Column("ended_at", TIME),
        sa.Column("host", sa.String(255)),
        sa.Column("pid", sa.Integer(), comment="of the process that measures, on host"),
        sa.Column("doing", sa.String(64), comment="what its progress bar shows"),
        sa.Column("progress", sa.Double(), comment="share of it that is done"),
        sa.Column("differences", sa.JSON(), nullable=False, comment="a row a metric, with interval and p-values"),
        sa.Column("worse", sa.JSON(), nullable=False, comment="metrics that fell significantly"),
        sa.Column("error", sa.Text()),
        sa.PrimaryKeyConstraint("id", name="pk_gates"),
        sa.CheckConstraint(
            "state IN ('waiting', 'running', 'passed', 'refused', 'failed')", name=op.f("ck_gates_state")
        ),
    )
    op.create_index("ix_gates_alias", "gates", ["alias"])
    op.create_index("ix_gates_after", "gates", ["after"])
    with op.batch_alter_table("audit") as audit:
        audit.add_column(sa.Column("reason", sa.Text(), comment="why it was done against a verdict, or undone"))
        audit.add_column(sa.Column("gate_id", sa.Integer()))
        audit.create_foreign_key("fk_audit_gate_id", "gates", ["gate_id"], ["id"])


def downgrade() -> None:
    with op.batch_alter_table("audit") as audit:
        audit.drop_constraint("fk_audit_gate_id", type_="foreignkey")
        audit.drop_column("gate_id")
        audit.drop_column("reason")
    op.drop_table("gates")
