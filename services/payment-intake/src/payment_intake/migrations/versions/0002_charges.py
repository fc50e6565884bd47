"""Charges that autopay asks for, every call about them, and the switch that stops them.

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Without a default and nullable: no row is rewritten, and the version before writes on.
    op.add_column(
        "movements", sa.Column("category", sa.Text(), nullable=True), schema="payment_intake"
    )
    op.create_table(
        "charges",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("enrolment_id", sa.Uuid(), nullable=False),
        sa.Column("due_date", sa.Date(), nullable=False),
        sa.Column("bill_reference", sa.Text(), nullable=False),
        sa.Column("method_kind", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("amount_cents", sa.BigInteger(), nullable=False),
        sa.Column("processor", sa.Text(), nullable=True),
        sa.Column("payment_method_token", sa.Text(), nullable=True),
        sa.Column("customer_token", sa.Text(), nullable=True),
        sa.Column("mandate_token", sa.Text(), nullable=True),
        sa.Column("requested_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("valid_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("category", sa.Text(), nullable=True),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("keys_spent", sa.Integer(), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lease_owner", sa.Uuid(), nullable=True),
        sa.Column("reference", sa.Text(), nullable=True),
        sa.Column("earlier", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("answered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancelled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("traceparent", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "status IN ('due', 'charging', 'unknown', 'pending', 'charged', 'declined', "
            "'withdrawn', 'refund_due', 'refunding', 'refunded')",
            name="charges_status_known",
        ),
        sa.CheckConstraint(
            "method_kind IN ('card', 'us_bank_account')", name="charges_method_kind_known"
        ),
        sa.CheckConstraint("amount_cents > 0", name="charges_amount_positive"),
        sa.CheckConstraint(
            "payment_method_token IS NOT NULL OR status = 'withdrawn'",
            name="charges_sent_has_token",
        ),
        sa.PrimaryKeyConstraint("id"),
        schema="payment_intake",
    )
    op.create_index(
        "charges_due_at",
        "charges",
        ["due_at"],
        unique=False,
        schema="payment_intake",
        postgresql_where=sa.text(
            "status IN ('due', 'charging', 'unknown', 'refund_due', 'refunding')"
        ),
    )
    op.create_index(
        "charges_valid_until",
        "charges",
        ["valid_until"],
        unique=False,
        schema="payment_intake",
        postgresql_where=sa.text("status = 'due'"),
    )
    op.create_table(
        "charge_attempts",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("charge_id", sa.Uuid(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("operation", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("reference", sa.Text(), nullable=True),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("duration_ms", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        schema="payment_intake",
    )
    op.create_index(
        "charge_attempts_charge",
        "charge_attempts",
        ["charge_id"],
        unique=False,
        schema="payment_intake",
    )
    op.create_table(
        "switches",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("is_paused", sa.Boolean(), nullable=False),
        sa.Column("operator", sa.Text(), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("name"),
        schema="payment_intake",
    )
    op.create_table(
        "switch_changes",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("is_paused", sa.Boolean(), nullable=False),
        sa.Column("operator", sa.Text(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        schema="payment_intake",
    )
    # A queue's rows come and go: vacuum by count, not by a share of a table that stays small.
    op.execute(
        "ALTER TABLE payment_intake.charges SET (autovacuum_vacuum_scale_factor = 0, "
        "autovacuum_vacuum_threshold = 20000, autovacuum_vacuum_insert_scale_factor = 0, "
        "autovacuum_vacuum_insert_threshold = 100000)"
    )


def downgrade() -> None:
    op.drop_table("switch_changes", schema="payment_intake")
    op.drop_table("switches", schema="payment_intake")
    op.drop_index("charge_attempts_charge", table_name="charge_attempts", schema="payment_intake")
    op.drop_table("charge_attempts", schema="payment_intake")
    op.drop_index(
        "charges_valid_until",
        table_name="charges",
        schema="payment_intake",
        postgresql_where=sa.text("status = 'due'"),
    )
    op.drop_index(
        "charges_due_at",
        table_name="charges",
        schema="payment_intake",
        postgresql_where=sa.text(
            "status IN ('due', 'charging', 'unknown', 'refund_due', 'refunding')"
        ),
    )
    op.drop_table("charges", schema="payment_intake")
    op.drop_column("movements", "category", schema="payment_intake")
