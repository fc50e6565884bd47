"""The notifications, their failed attempts, the contacts and the outbox.

Revision ID: 0001
Revises:
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

QUEUES = ("notifications", "outbox")


def upgrade() -> None:
    op.create_table(
        "contacts",
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("email", sa.Text(), nullable=True),
        sa.Column("locale", sa.Text(), nullable=False),
        sa.Column("email_opted_out", sa.Boolean(), nullable=True),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("account_id"),
        schema="notifier",
    )
    op.create_table(
        "failed_attempts",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("notification_id", sa.Uuid(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("duration_ms", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        schema="notifier",
    )
    op.create_index(
        "failed_attempts_notification",
        "failed_attempts",
        ["notification_id"],
        unique=False,
        schema="notifier",
    )
    op.create_table(
        "notifications",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("seq", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("payment_id", sa.Uuid(), nullable=False),
        sa.Column("posting_key", sa.Uuid(), nullable=True),
        sa.Column("account_id", sa.Text(), nullable=True),
        sa.Column("amount_cents", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("effective_date", sa.Date(), nullable=True),
        sa.Column("balance_after_cents", sa.BigInteger(), nullable=True),
        sa.Column("accepted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("happened_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("traceparent", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("repeats", sa.Integer(), server_default="0", nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lease", sa.Uuid(), nullable=True),
        sa.Column("message_id", sa.Text(), nullable=True),
        sa.Column("taken_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("settled_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "kind IN ('posted', 'reversed', 'reinstated', 'delayed', 'declined')",
            name="notifications_kind_known",
        ),
        sa.CheckConstraint(
            "status <> 'sent' OR message_id IS NOT NULL", name="notifications_sent_has_message_id"
        ),
        sa.CheckConstraint(
            "status IN ('due', 'sending', 'sent', 'failed', 'skipped')",
            name="notifications_status_known",
        ),
        sa.CheckConstraint("amount_cents > 0", name="notifications_amount_positive"),
        sa.PrimaryKeyConstraint("id"),
        schema="notifier",
    )
    op.create_index(
        "notifications_due_at",
        "notifications",
        ["due_at", "seq"],
        unique=False,
        schema="notifier",
        postgresql_where=sa.text("status IN ('due', 'sending')"),
    )
    op.create_index(
        "notifications_payment", "notifications", ["payment_id"], unique=False, schema="notifier"
    )
    op.create_index(
        "notifications_unsettled",
        "notifications",
        ["account_id", "seq"],
        unique=False,
        schema="notifier",
        postgresql_where=sa.text("status IN ('due', 'sending')"),
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
        schema="notifier",
    )
    for table in QUEUES:
        # A queue's rows come and go: vacuum by count, not by a share of a table that stays small.
        op.execute(
            f"ALTER TABLE notifier.{table} SET (autovacuum_vacuum_scale_factor = 0, "
            "autovacuum_vacuum_threshold = 20000, autovacuum_vacuum_insert_scale_factor = 0, "
            "autovacuum_vacuum_insert_threshold = 100000)"
        )


def downgrade() -> None:
    op.drop_table("outbox", schema="notifier")
    op.drop_index(
        "notifications_unsettled",
        table_name="notifications",
        schema="notifier",
        postgresql_where=sa.text("status IN ('due', 'sending')"),
    )
    op.drop_index("notifications_payment", table_name="notifications", schema="notifier")
    op.drop_index(
        "notifications_due_at",
        table_name="notifications",
        schema="notifier",
        postgresql_where=sa.text("status IN ('due', 'sending')"),
    )
    op.drop_table("notifications", schema="notifier")
    op.drop_index("failed_attempts_notification", table_name="failed_attempts", schema="notifier")
    op.drop_table("failed_attempts", schema="notifier")
    op.drop_table("contacts", schema="notifier")
