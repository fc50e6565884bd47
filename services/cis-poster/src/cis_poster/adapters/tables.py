"""The tables of schema `cis_poster`; migrations create what stands here."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    Identity,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    Uuid,
    text,
)

from cis_poster.domain import Kind, Status
from shared.db.columns import one_of
from shared.outbox.table import outbox_table

metadata = MetaData(schema="cis_poster")


_UNSETTLED = text("status IN ('due', 'attempting', 'unknown')")
_DUE = text(f"{_UNSETTLED.text} AND due_at IS NOT NULL")
"""For those alone who ask by `due_at`, which is never null: a plan of a time when little was due
took the index of what is due for the shortest way to an account, and read all of it each time."""

postings = Table(
    "postings",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("seq", BigInteger, Identity(), nullable=False),
    Column("payment_id", Uuid, nullable=False),
    Column("kind", Text, nullable=False),
    Column("account_id", Text),
    Column("amount_cents", BigInteger, nullable=False),
    Column("currency", Text, nullable=False),
    Column("effective_date", Date, nullable=False),
    Column("accepted_at", DateTime(timezone=True), nullable=False),
    Column("processor", Text, nullable=False),
    Column("reference", Text, nullable=False),
    Column("reason_code", Text),
    Column("traceparent", Text),
    Column("status", Text, nullable=False),
    Column("reason", Text),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("suspensions", Integer, nullable=False, server_default="0"),
    Column("due_at", DateTime(timezone=True), nullable=False),
    Column("lease_owner", Uuid),
    Column("cis_reference", Text),
    Column("balance_after_cents", BigInteger),
    Column("taken_at", DateTime(timezone=True), nullable=False),
    Column("settled_at", DateTime(timezone=True)),
    CheckConstraint(one_of("status", Status), name="postings_status_known"),
    CheckConstraint(one_of("kind", Kind), name="postings_kind_known"),
    CheckConstraint("amount_cents > 0", name="postings_amount_positive"),
    CheckConstraint(
        "status <> 'posted' OR cis_reference IS NOT NULL", name="postings_posted_has_reference"
    ),
    # claim_due: what is due or has lapsed, oldest first.
    Index("postings_due", "due_at", "seq", postgresql_where=_DUE),
    # take and claim_due: what of an account is unsettled, in order.
    Index("postings_unsettled", "account_id", "seq", postgresql_where=_UNSETTLED),
    # settle and wake_waiting: the reversals that wait for a payment.
    Index("postings_waiting", "payment_id", postgresql_where=text("status = 'waiting'")),
    # suspense: what an operator has to look at, oldest first.
    Index(
        "postings_suspense",
        "settled_at",
        postgresql_where=text("status IN ('suspended', 'conflicted')"),
    ),
)

failed_attempts = Table(
    "failed_attempts",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("posting_id", Uuid, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("outcome", Text, nullable=False),
    Column("reason", Text),
    Column("duration_ms", Integer, nullable=False),
    # A payment's timeline: every attempt that was not the posting itself.
    Index("failed_attempts_posting", "posting_id"),
)

audit_entries = Table(
    "audit_entries",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("operator", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("posting_id", Uuid, nullable=False),
    Column("from_account", Text),
    Column("to_account", Text),
    Column("note", Text, nullable=False),
    Index("audit_entries_posting", "posting_id"),
)

outbox = outbox_table(metadata)
