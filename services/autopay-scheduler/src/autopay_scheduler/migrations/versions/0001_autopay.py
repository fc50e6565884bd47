"""Accounts and what they owe, enrolments with their evidence, charges, and the outbox.

Revision ID: 0001
Revises:
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

QUEUES = ("plans_due", "charges", "announcements", "outbox")


def upgrade() -> None:
    op.create_table(
        "accounts",
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("balance_cents", sa.BigInteger(), nullable=True),
        sa.Column("balance_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("paid_cents", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("heard_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("account_id"),
        schema="autopay_scheduler",
    )
    op.create_table(
        "announcements",
        sa.Column("charge_id", sa.Uuid(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("fact_id", sa.Uuid(), nullable=False),
        sa.Column("amount_cents", sa.BigInteger(), nullable=False),
        sa.Column("left_cents", sa.BigInteger(), nullable=False),
        sa.Column("charge_on", sa.Date(), nullable=False),
        sa.Column("announced_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("noticed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("is_void", sa.Boolean(), server_default="false", nullable=False),
        sa.Column("restate_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("restatements", sa.Integer(), server_default="0", nullable=False),
        sa.CheckConstraint(
            "status IN ('waiting', 'sent', 'failed', 'skipped')", name="announcements_status_known"
        ),
        sa.PrimaryKeyConstraint("charge_id", "version"),
        schema="autopay_scheduler",
    )
    op.create_index(
        "announcements_fact", "announcements", ["fact_id"], unique=True, schema="autopay_scheduler"
    )
    op.create_index(
        "announcements_restate_at",
        "announcements",
        ["restate_at"],
        unique=False,
        schema="autopay_scheduler",
        postgresql_where=sa.text("restate_at IS NOT NULL"),
    )
    op.create_table(
        "audit_entries",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("operator", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        schema="autopay_scheduler",
    )
    op.create_table(
        "bills",
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("bill_reference", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("amount_cents", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("due_date", sa.Date(), nullable=False),
        sa.Column("stated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("paid_before_cents", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.CheckConstraint("status IN ('open', 'cancelled')", name="bills_status_known"),
        sa.PrimaryKeyConstraint("account_id", "bill_reference"),
        schema="autopay_scheduler",
    )
    op.create_index(
        "bills_due_date",
        "bills",
        ["due_date", "account_id"],
        unique=False,
        schema="autopay_scheduler",
        postgresql_where=sa.text("status = 'open'"),
    )
    op.create_table(
        "charges",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("enrolment_id", sa.Uuid(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("bill_reference", sa.Text(), nullable=False),
        sa.Column("due_date", sa.Date(), nullable=False),
        sa.Column("planned_on", sa.Date(), nullable=False),
        sa.Column("chosen_on", sa.Date(), nullable=False),
        sa.Column("charge_on", sa.Date(), nullable=False),
        sa.Column("amount_cents", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("act_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("first_attempt_on", sa.Date(), nullable=True),
        sa.Column("requested_cents", sa.BigInteger(), nullable=True),
        sa.Column("requested_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("valid_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("processor", sa.Text(), nullable=True),
        sa.Column("payment_method_token", sa.Text(), nullable=True),
        sa.Column("customer_token", sa.Text(), nullable=True),
        sa.Column("mandate_token", sa.Text(), nullable=True),
        sa.Column("cancelled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("payment_id", sa.Uuid(), nullable=True),
        sa.Column("declines", postgresql.ARRAY(sa.Text()), server_default="{}", nullable=False),
        sa.Column("paid_cents", sa.BigInteger(), nullable=True),
        sa.Column("posted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("restatements", sa.Integer(), server_default="0", nullable=False),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "status IN ('planned', 'announced', 'held', 'requested', 'pending', 'retrying', "
            "'paid', 'failed', 'skipped', 'missed', 'cancelled', 'refunded')",
            name="charges_status_known",
        ),
        sa.CheckConstraint(
            "status NOT IN ('requested', 'pending') OR requested_cents > 0",
            name="charges_requested_have_amount",
        ),
        sa.PrimaryKeyConstraint("id"),
        schema="autopay_scheduler",
    )
    op.create_index(
        "charges_account",
        "charges",
        ["account_id", "due_date"],
        unique=False,
        schema="autopay_scheduler",
    )
    op.create_index(
        "charges_act_at",
        "charges",
        ["status", "act_at"],
        unique=False,
        schema="autopay_scheduler",
        postgresql_where=sa.text("act_at IS NOT NULL"),
    )
    op.create_index(
        "charges_due",
        "charges",
        ["act_at", "due_date", "id"],
        unique=False,
        schema="autopay_scheduler",
        postgresql_where=sa.text("status IN ('announced', 'retrying')"),
    )
    op.create_index(
        "charges_unheard",
        "charges",
        ["act_at"],
        unique=False,
        schema="autopay_scheduler",
        postgresql_where=sa.text("status IN ('requested', 'pending')"),
    )
    op.create_index(
        "charges_charge_on",
        "charges",
        ["charge_on", "account_id"],
        unique=False,
        schema="autopay_scheduler",
    )
    op.create_index(
        "charges_payment",
        "charges",
        ["payment_id"],
        unique=False,
        schema="autopay_scheduler",
        postgresql_where=sa.text("payment_id IS NOT NULL"),
    )
    op.create_table(
        "enrolments",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("reference", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("processor", sa.Text(), nullable=True),
        sa.Column("payment_method_token", sa.Text(), nullable=True),
        sa.Column("customer_token", sa.Text(), nullable=True),
        sa.Column("mandate_token", sa.Text(), nullable=True),
        sa.Column("method_kind", sa.Text(), nullable=True),
        sa.Column("method_label", sa.Text(), nullable=True),
        sa.Column("method_last4", sa.Text(), nullable=True),
        sa.Column("method_expires", sa.Text(), nullable=True),
        sa.Column("charge_on", sa.Text(), nullable=True),
        sa.Column("days_before", sa.Integer(), nullable=True),
        sa.Column("day_of_month", sa.Integer(), nullable=True),
        sa.Column("amount_rule", sa.Text(), nullable=True),
        sa.Column("fixed_cents", sa.BigInteger(), nullable=True),
        sa.Column("minimum_cents", sa.BigInteger(), nullable=True),
        sa.Column("maximum_cents", sa.BigInteger(), nullable=True),
        sa.Column("authorisation_version", sa.Text(), nullable=True),
        sa.Column("authorised_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("locale", sa.Text(), nullable=True),
        sa.Column("resume_on", sa.Date(), nullable=True),
        sa.Column("word_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("given_up", sa.Integer(), server_default="0", nullable=False),
        sa.Column("taken_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "amount_rule IN ('full_balance', 'statement_balance', 'fixed')",
            name="enrolments_amount_rule_known",
        ),
        sa.CheckConstraint(
            "charge_on IN ('due_date', 'days_before_due', 'day_of_month')",
            name="enrolments_charge_on_known",
        ),
        sa.CheckConstraint(
            "status IN ('active', 'paused', 'stopped', 'refused')", name="enrolments_status_known"
        ),
        sa.CheckConstraint(
            "status NOT IN ('active', 'paused') OR (payment_method_token IS NOT NULL AND "
            "processor IS NOT NULL AND charge_on IS NOT NULL AND amount_rule IS NOT NULL)",
            name="enrolments_on_are_whole",
        ),
        sa.PrimaryKeyConstraint("id"),
        schema="autopay_scheduler",
    )
    op.create_index(
        "enrolments_account", "enrolments", ["account_id"], unique=False, schema="autopay_scheduler"
    )
    op.create_index(
        "enrolments_expiry",
        "enrolments",
        ["method_expires", "id"],
        unique=False,
        schema="autopay_scheduler",
        postgresql_where=sa.text("status IN ('active', 'paused') AND method_expires IS NOT NULL"),
    )
    op.create_index(
        "enrolments_method",
        "enrolments",
        ["payment_method_token"],
        unique=False,
        schema="autopay_scheduler",
    )
    op.create_index(
        "enrolments_on",
        "enrolments",
        ["account_id"],
        unique=True,
        schema="autopay_scheduler",
        postgresql_where=sa.text("status IN ('active', 'paused')"),
    )
    op.create_table(
        "expiry_warnings",
        sa.Column("enrolment_id", sa.Uuid(), nullable=False),
        sa.Column("expires", sa.Text(), nullable=False),
        sa.Column("days", sa.Integer(), nullable=False),
        sa.Column("warned_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("enrolment_id", "expires", "days"),
        schema="autopay_scheduler",
    )
    op.create_table(
        "failures",
        sa.Column("charge_id", sa.Uuid(), nullable=False),
        sa.Column("decline", sa.Text(), nullable=False),
        sa.Column("document", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("charge_id", "decline"),
        schema="autopay_scheduler",
    )
    op.create_table(
        "mandates",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("enrolment_id", sa.Uuid(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("event_source", sa.Text(), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("said_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("authorisation_version", sa.Text(), nullable=True),
        sa.Column("authorised_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("document", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("heard_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        schema="autopay_scheduler",
    )
    op.create_index(
        "mandates_account",
        "mandates",
        ["account_id", "id"],
        unique=False,
        schema="autopay_scheduler",
    )
    op.create_index(
        "mandates_once",
        "mandates",
        ["event_source", "event_id", "type"],
        unique=True,
        schema="autopay_scheduler",
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
        schema="autopay_scheduler",
    )
    op.create_table(
        "plans_due",
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("account_id"),
        schema="autopay_scheduler",
    )
    op.create_index(
        "plans_due_at", "plans_due", ["due_at"], unique=False, schema="autopay_scheduler"
    )
    op.create_table(
        "postings",
        sa.Column("posting_key", sa.Uuid(), nullable=False),
        sa.Column("payment_id", sa.Uuid(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("signed_cents", sa.BigInteger(), nullable=False),
        sa.Column("posted_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("posting_key"),
        schema="autopay_scheduler",
    )
    op.create_index(
        "postings_account",
        "postings",
        ["account_id", "posted_at"],
        unique=False,
        schema="autopay_scheduler",
    )
    op.create_index(
        "postings_payment", "postings", ["payment_id"], unique=False, schema="autopay_scheduler"
    )
    op.create_table(
        "switches",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("is_paused", sa.Boolean(), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name"),
        schema="autopay_scheduler",
    )
    for table in QUEUES:
        # A queue's rows come and go: vacuum by count, not by a share of a table that stays small.
        op.execute(
            f"ALTER TABLE autopay_scheduler.{table} SET (autovacuum_vacuum_scale_factor = 0, "
            "autovacuum_vacuum_threshold = 20000, autovacuum_vacuum_insert_scale_factor = 0, "
            "autovacuum_vacuum_insert_threshold = 100000)"
        )


def downgrade() -> None:
    op.drop_table("switches", schema="autopay_scheduler")
    op.drop_index("postings_payment", table_name="postings", schema="autopay_scheduler")
    op.drop_index("postings_account", table_name="postings", schema="autopay_scheduler")
    op.drop_table("postings", schema="autopay_scheduler")
    op.drop_index("plans_due_at", table_name="plans_due", schema="autopay_scheduler")
    op.drop_table("plans_due", schema="autopay_scheduler")
    op.drop_table("outbox", schema="autopay_scheduler")
    op.drop_index("mandates_once", table_name="mandates", schema="autopay_scheduler")
    op.drop_index("mandates_account", table_name="mandates", schema="autopay_scheduler")
    op.drop_table("mandates", schema="autopay_scheduler")
    op.drop_table("failures", schema="autopay_scheduler")
    op.drop_table("expiry_warnings", schema="autopay_scheduler")
    op.drop_index(
        "enrolments_on",
        table_name="enrolments",
        schema="autopay_scheduler",
        postgresql_where=sa.text("status IN ('active', 'paused')"),
    )
    op.drop_index("enrolments_method", table_name="enrolments", schema="autopay_scheduler")
    op.drop_index(
        "enrolments_expiry",
        table_name="enrolments",
        schema="autopay_scheduler",
        postgresql_where=sa.text("status IN ('active', 'paused') AND method_expires IS NOT NULL"),
    )
    op.drop_index("enrolments_account", table_name="enrolments", schema="autopay_scheduler")
    op.drop_table("enrolments", schema="autopay_scheduler")
    op.drop_index(
        "charges_payment",
        table_name="charges",
        schema="autopay_scheduler",
        postgresql_where=sa.text("payment_id IS NOT NULL"),
    )
    op.drop_index("charges_charge_on", table_name="charges", schema="autopay_scheduler")
    op.drop_index(
        "charges_act_at",
        table_name="charges",
        schema="autopay_scheduler",
        postgresql_where=sa.text("act_at IS NOT NULL"),
    )
    op.drop_index("charges_account", table_name="charges", schema="autopay_scheduler")
    op.drop_table("charges", schema="autopay_scheduler")
    op.drop_index(
        "bills_due_date",
        table_name="bills",
        schema="autopay_scheduler",
        postgresql_where=sa.text("status = 'open'"),
    )
    op.drop_table("bills", schema="autopay_scheduler")
    op.drop_table("audit_entries", schema="autopay_scheduler")
    op.drop_index(
        "announcements_restate_at",
        table_name="announcements",
        schema="autopay_scheduler",
        postgresql_where=sa.text("restate_at IS NOT NULL"),
    )
    op.drop_index("announcements_fact", table_name="announcements", schema="autopay_scheduler")
    op.drop_table("announcements", schema="autopay_scheduler")
    op.drop_table("accounts", schema="autopay_scheduler")
