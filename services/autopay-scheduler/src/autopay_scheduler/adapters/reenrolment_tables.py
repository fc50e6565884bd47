"""The tables of the move from the old portal, in schema `autopay_scheduler`."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    Identity,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from autopay_scheduler.adapters.tables import metadata
from autopay_scheduler.domain.amounts import AmountRule
from autopay_scheduler.domain.days import ChargeOn
from autopay_scheduler.domain.import_lines import Reason
from autopay_scheduler.domain.reenrolment import ReenrolmentEvent, ReenrolmentStatus
from shared.db.columns import one_of

reenrolments = Table(
    "reenrolments",
    metadata,
    # There is no column for a payment method, and nothing refers to this table: what stands here
    # cannot be charged.
    Column("account_id", Text, primary_key=True),
    Column("old_account", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("email", Text),
    Column("locale", Text, nullable=False),
    Column("charge_on", Text, nullable=False),
    Column("days_before", Integer),
    Column("day_of_month", Integer),
    Column("amount_rule", Text, nullable=False),
    Column("fixed_cents", BigInteger),
    Column("minimum_cents", BigInteger),
    Column("maximum_cents", BigInteger),
    Column("status", Text, nullable=False),
    Column("imported_at", DateTime(timezone=True), nullable=False),
    Column("imported_on", Date, nullable=False),
    Column("invitations", Integer, nullable=False, server_default="0"),
    Column("last_invited_on", Date),
    # When to look at it next; a due date may have become known by then.
    Column("look_on", Date, nullable=False),
    Column("settled_at", DateTime(timezone=True)),
    CheckConstraint(one_of("status", ReenrolmentStatus), name="reenrolments_status_known"),
    CheckConstraint(one_of("charge_on", ChargeOn), name="reenrolments_charge_on_known"),
    CheckConstraint(one_of("amount_rule", AmountRule), name="reenrolments_amount_rule_known"),
    # Lists and counts by status; who awaits and has no bill yet.
    Index("reenrolments_status", "status", "account_id"),
    # The clerk's list of those whom nobody can write to.
    Index(
        "reenrolments_without_email",
        "account_id",
        postgresql_where=text("status = 'awaiting' AND email IS NULL"),
    ),
    # claim: what is to be looked at, longest due first.
    Index(
        "reenrolments_look_on",
        "look_on",
        "account_id",
        postgresql_where=text("status = 'awaiting'"),
    ),
)

reenrolment_events = Table(
    "reenrolment_events",
    metadata,
    # The history, for ever: rows are inserted and never touched again.
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("account_id", Text, nullable=False),
    Column("event", Text, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False),
    # The city's day.
    Column("day", Date, nullable=False),
    Column("import_id", Uuid),
    Column("line", Integer),
    Column("invitation", Integer),
    Column("due_date", Date),
    Column("amount_cents", BigInteger),
    # What a change replaced.
    Column("before", JSONB),
    CheckConstraint(one_of("event", ReenrolmentEvent), name="reenrolment_events_event_known"),
    # An account's history.
    Index("reenrolment_events_account", "account_id", "id"),
    # Figures by day.
    Index("reenrolment_events_day", "day", "event"),
)

reenrolment_imports = Table(
    "reenrolment_imports",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("file_name", Text, nullable=False),
    Column("operator", Text, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("lines", Integer, nullable=False),
    Column("imported", Integer, nullable=False),
    Column("changed", Integer, nullable=False),
    Column("unchanged", Integer, nullable=False),
    Column("refused", Integer, nullable=False),
    CheckConstraint("kind IN ('enrolments', 'drafts')", name="reenrolment_imports_kind_known"),
)

reenrolment_problems = Table(
    "reenrolment_problems",
    metadata,
    # What was wrong with which line; never what the line said.
    Column("import_id", Uuid, nullable=False),
    Column("line", Integer, nullable=False),
    Column("field", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("detail", Text, nullable=False),
    PrimaryKeyConstraint("import_id", "line", "field"),
    CheckConstraint(one_of("reason", Reason), name="reenrolment_problems_reason_known"),
)

old_drafts = Table(
    "old_drafts",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("account_id", Text, nullable=False),
    Column("draft_date", Date),
    Column("due_date", Date),
    Column("amount_cents", BigInteger, nullable=False),
    Column("import_id", Uuid, nullable=False),
    Column("line", Integer, nullable=False),
    Column("imported_at", DateTime(timezone=True), nullable=False),
    # By an operator, who knows that the old portal will not draft it.
    Column("withdrawn_at", DateTime(timezone=True)),
    CheckConstraint(
        "draft_date IS NOT NULL OR due_date IS NOT NULL", name="old_drafts_have_a_date"
    ),
    # One row for each draft, however often it is imported; planning: an account's drafts.
    Index(
        "old_drafts_once",
        "account_id",
        "draft_date",
        "due_date",
        "amount_cents",
        unique=True,
        postgresql_nulls_not_distinct=True,
    ),
)
