"""The move from the old portal: imported enrolments, their history, imports, scheduled drafts.

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "reenrolments",
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("old_account", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("email", sa.Text(), nullable=True),
        sa.Column("locale", sa.Text(), nullable=False),
        sa.Column("charge_on", sa.Text(), nullable=False),
        sa.Column("days_before", sa.Integer(), nullable=True),
        sa.Column("day_of_month", sa.Integer(), nullable=True),
        sa.Column("amount_rule", sa.Text(), nullable=False),
        sa.Column("fixed_cents", sa.BigInteger(), nullable=True),
        sa.Column("minimum_cents", sa.BigInteger(), nullable=True),
        sa.Column("maximum_cents", sa.BigInteger(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("imported_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("imported_on", sa.Date(), nullable=False),
        sa.Column("invitations", sa.Integer(), server_default="0", nullable=False),
        sa.Column("last_invited_on", sa.Date(), nullable=True),
        sa.Column("look_on", sa.Date(), nullable=False),
        sa.Column("settled_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "amount_rule IN ('full_balance', 'statement_balance', 'fixed')",
            name="reenrolments_amount_rule_known",
        ),
        sa.CheckConstraint(
            "charge_on IN ('due_date', 'days_before_due', 'day_of_month')",
            name="reenrolments_charge_on_known",
        ),
        sa.CheckConstraint(
            "status IN ('awaiting', 'enrolled', 'declined', 'past')",
            name="reenrolments_status_known",
        ),
        sa.PrimaryKeyConstraint("account_id"),
        schema="autopay_scheduler",
    )
    op.create_index(
        "reenrolments_look_on",
        "reenrolments",
        ["look_on", "account_id"],
        unique=False,
        schema="autopay_scheduler",
        postgresql_where=sa.text("status = 'awaiting'"),
    )
    op.create_index(
        "reenrolments_status",
        "reenrolments",
        ["status", "account_id"],
        unique=False,
        schema="autopay_scheduler",
    )
    op.create_index(
        "reenrolments_without_email",
        "reenrolments",
        ["account_id"],
        unique=False,
        schema="autopay_scheduler",
        postgresql_where=sa.text("status = 'awaiting' AND email IS NULL"),
    )
    op.create_table(
        "reenrolment_events",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("import_id", sa.Uuid(), nullable=True),
        sa.Column("line", sa.Integer(), nullable=True),
        sa.Column("invitation", sa.Integer(), nullable=True),
        sa.Column("due_date", sa.Date(), nullable=True),
        sa.Column("amount_cents", sa.BigInteger(), nullable=True),
        sa.Column("before", JSONB(), nullable=True),
        sa.CheckConstraint(
            "event IN ('imported', 'changed', 'invited', 'reminded', 'enrolled', 'declined', "
            "'past')",
            name="reenrolment_events_event_known",
        ),
        sa.PrimaryKeyConstraint("id"),
        schema="autopay_scheduler",
    )
    op.create_index(
        "reenrolment_events_account",
        "reenrolment_events",
        ["account_id", "id"],
        unique=False,
        schema="autopay_scheduler",
    )
    op.create_index(
        "reenrolment_events_day",
        "reenrolment_events",
        ["day", "event"],
        unique=False,
        schema="autopay_scheduler",
    )
    op.create_table(
        "reenrolment_imports",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("file_name", sa.Text(), nullable=False),
        sa.Column("operator", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lines", sa.Integer(), nullable=False),
        sa.Column("imported", sa.Integer(), nullable=False),
        sa.Column("changed", sa.Integer(), nullable=False),
        sa.Column("unchanged", sa.Integer(), nullable=False),
        sa.Column("refused", sa.Integer(), nullable=False),
        sa.CheckConstraint(
            "kind IN ('enrolments', 'drafts')", name="reenrolment_imports_kind_known"
        ),
        sa.PrimaryKeyConstraint("id"),
        schema="autopay_scheduler",
    )
    op.create_table(
        "reenrolment_problems",
        sa.Column("import_id", sa.Uuid(), nullable=False),
        sa.Column("line", sa.Integer(), nullable=False),
        sa.Column("field", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "reason IN ('too_long', 'wrong_quoting', 'wrong_cell_count', 'control_character', "
            "'payment_data', 'missing', 'invalid', 'invalid_rule', 'above_city_limit', "
            "'date_out_of_range', 'unknown_account', 'duplicate', 'already_enrolled', "
            "'autopay_stopped', 'already_declined', 'already_past')",
            name="reenrolment_problems_reason_known",
        ),
        sa.PrimaryKeyConstraint("import_id", "line", "field"),
        schema="autopay_scheduler",
    )
    op.create_table(
        "old_drafts",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("draft_date", sa.Date(), nullable=True),
        sa.Column("due_date", sa.Date(), nullable=True),
        sa.Column("amount_cents", sa.BigInteger(), nullable=False),
        sa.Column("import_id", sa.Uuid(), nullable=False),
        sa.Column("line", sa.Integer(), nullable=False),
        sa.Column("imported_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("withdrawn_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "draft_date IS NOT NULL OR due_date IS NOT NULL", name="old_drafts_have_a_date"
        ),
        sa.PrimaryKeyConstraint("id"),
        schema="autopay_scheduler",
    )
    op.create_index(
        "old_drafts_once",
        "old_drafts",
        ["account_id", "draft_date", "due_date", "amount_cents"],
        unique=True,
        schema="autopay_scheduler",
        postgresql_nulls_not_distinct=True,
    )


def downgrade() -> None:
    op.drop_table("old_drafts", schema="autopay_scheduler")
    op.drop_table("reenrolment_problems", schema="autopay_scheduler")
    op.drop_table("reenrolment_imports", schema="autopay_scheduler")
    op.drop_table("reenrolment_events", schema="autopay_scheduler")
    op.drop_table("reenrolments", schema="autopay_scheduler")
