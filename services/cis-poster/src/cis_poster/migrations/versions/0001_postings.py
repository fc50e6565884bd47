"""The postings, their failed attempts, the audit and the outbox.

Revision ID: 0001
Revises:
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

QUEUES = ("postings", "outbox")


def upgrade() -> None:
    op.create_table(
        "audit_entries",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("operator", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("posting_id", sa.Uuid(), nullable=False),
        sa.Column("from_account", sa.Text(), nullable=True),
        sa.Column("to_account", sa.Text(), nullable=True),
        sa.Column("note", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        schema="cis_poster",
    )
    op.create_index(
        "audit_entries_posting", "audit_entries", ["posting_id"], unique=False, schema="cis_poster"
    )
    op.create_table(
        "failed_attempts",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("posting_id", sa.Uuid(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("duration_ms", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        schema="cis_poster",
    )
    op.create_index(
        "failed_attempts_posting",
        "failed_attempts",
        ["posting_id"],
        unique=False,
        schema="cis_poster",
    )
    op.create_table(
        "outbox",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("key", sa.LargeBinary(), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.Column("headers", sa.LargeBinary(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id"),
        schema="cis_poster",
    )
    op.create_table(
        "postings",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("seq", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("payment_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=True),
        sa.Column("amount_cents", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("effective_date", sa.Date(), nullable=False),
        sa.Column("accepted_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("processor", sa.Text(), nullable=False),
        sa.Column("reference", sa.Text(), nullable=False),
        sa.Column("reason_code", sa.Text(), nullable=True),
        sa.Column("traceparent", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("suspensions", sa.Integer(), server_default="0", nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lease_owner", sa.Uuid(), nullable=True),
        sa.Column("cis_reference", sa.Text(), nullable=True),
        sa.Column("balance_after_cents", sa.BigInteger(), nullable=True),
        sa.Column("taken_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("settled_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "kind IN ('payment', 'reversal', 'reinstatement')", name="postings_kind_known"
        ),
        sa.CheckConstraint(
            "status <> 'posted' OR cis_reference IS NOT NULL", name="postings_posted_has_reference"
        ),
        sa.CheckConstraint(
            "status IN ('due', 'attempting', 'unknown', 'waiting', 'posted', 'suspended', "
            "'conflicted', 'returned')",
            name="postings_status_known",
        ),
        sa.CheckConstraint("amount_cents > 0", name="postings_amount_positive"),
        sa.PrimaryKeyConstraint("id"),
        schema="cis_poster",
    )
    op.create_index(
        "postings_due_at",
        "postings",
        ["due_at", "seq"],
        unique=False,
        schema="cis_poster",
        postgresql_where=sa.text("status IN ('due', 'attempting', 'unknown')"),
    )
    op.create_index(
        "postings_suspense",
        "postings",
        ["settled_at"],
        unique=False,
        schema="cis_poster",
        postgresql_where=sa.text("status IN ('suspended', 'conflicted')"),
    )
    op.create_index(
        "postings_unsettled",
        "postings",
        ["account_id", "seq"],
        unique=False,
        schema="cis_poster",
        postgresql_where=sa.text("status IN ('due', 'attempting', 'unknown')"),
    )
    op.create_index(
        "postings_waiting",
        "postings",
        ["payment_id"],
        unique=False,
        schema="cis_poster",
        postgresql_where=sa.text("status = 'waiting'"),
    )

    for table in QUEUES:
        # A queue's rows come and go: vacuum by count, not by a share of a table that stays small.
        op.execute(
            f"ALTER TABLE cis_poster.{table} SET (autovacuum_vacuum_scale_factor = 0, "
            "autovacuum_vacuum_threshold = 20000, autovacuum_vacuum_insert_scale_factor = 0, "
            "autovacuum_vacuum_insert_threshold = 100000)"
        )


def downgrade() -> None:
    op.drop_index(
        "postings_waiting",
        table_name="postings",
        schema="cis_poster",
        postgresql_where=sa.text("status = 'waiting'"),
    )
    op.drop_index(
        "postings_unsettled",
        table_name="postings",
        schema="cis_poster",
        postgresql_where=sa.text("status IN ('due', 'attempting', 'unknown')"),
    )
    op.drop_index(
        "postings_suspense",
        table_name="postings",
        schema="cis_poster",
        postgresql_where=sa.text("status IN ('suspended', 'conflicted')"),
    )
    op.drop_index(
        "postings_due_at",
        table_name="postings",
        schema="cis_poster",
        postgresql_where=sa.text("status IN ('due', 'attempting', 'unknown')"),
    )
    op.drop_table("postings", schema="cis_poster")
    op.drop_table("outbox", schema="cis_poster")
    op.drop_index("failed_attempts_posting", table_name="failed_attempts", schema="cis_poster")
    op.drop_table("failed_attempts", schema="cis_poster")
    op.drop_index("audit_entries_posting", table_name="audit_entries", schema="cis_poster")
    op.drop_table("audit_entries", schema="cis_poster")
