"""People: review queue and verdicts, users of the dashboard, the audit of what they and runs change; live progress."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "review_items",
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("pair_id", sa.String(200), nullable=False),
        sa.Column("task", sa.String(64), nullable=False),
        sa.Column("split", sa.String(16), nullable=False),
        sa.Column("messages", sa.JSON(), nullable=False),
        sa.Column("answer_a", sa.Text(), nullable=False),
        sa.Column("answer_b", sa.Text(), nullable=False),
        sa.Column("automated", sa.String(1), nullable=False, comment="the answer that the pipeline has chosen"),
        sa.Column("score_a", sa.Double(), nullable=False),
        sa.Column("score_b", sa.Double(), nullable=False),
        sa.Column("source", sa.String(64), nullable=False, comment="digest of the preferences artifact"),
        sa.Column("queued_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_review_items"),
        sa.CheckConstraint("automated IN ('a', 'b')", name=op.f("ck_review_items_automated")),
    )
    op.create_table(
        "reviews",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("labeller", sa.String(64), nullable=False),
        sa.Column("verdict", sa.String(8), nullable=False),
        sa.Column("criteria", sa.JSON(), nullable=False),
        sa.Column("swapped", sa.Boolean(), nullable=False, comment="answer b was shown first"),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_reviews"),
        sa.ForeignKeyConstraint(["key"], ["review_items.key"], name="fk_reviews_key", ondelete="CASCADE"),
        sa.UniqueConstraint("key", "labeller", name="uq_reviews_key"),
        sa.CheckConstraint("verdict IN ('a', 'b', 'tie', 'bad')", name=op.f("ck_reviews_verdict")),
    )
    op.create_index("ix_reviews_labeller", "reviews", ["labeller"])
    op.create_table(
        "users",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("password_hash", sa.String(255), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_users"),
        sa.CheckConstraint("role IN ('viewer', 'labeller', 'operator')", name=op.f("ck_users_role")),
    )
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("who", sa.String(64), nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("subject", sa.String(200), nullable=False),
        sa.Column("before", sa.String(200)),
        sa.Column("after", sa.String(200)),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
    )
    op.create_index("ix_audit_subject", "audit", ["subject"])
    with op.batch_alter_table("stages") as stages:
        stages.add_column(sa.Column("doing", sa.String(64), comment="what its progress bar shows"))
        stages.add_column(sa.Column("progress", sa.Double(), comment="share of it that is done"))
        stages.add_column(sa.Column("seconds_left", sa.Double(), comment="of it, at the rate so far"))


def downgrade() -> None:
    for table in ("audit", "users", "reviews", "review_items"):
        op.drop_table(table)
    with op.batch_alter_table("stages") as stages:
        for column in ("doing", "progress", "seconds_left"):
            stages.drop_column(column)
