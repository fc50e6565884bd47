"""The tables of schema `notifier`; migrations create what stands here."""

from sqlalchemy import (
    BigInteger,
    Boolean,
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

from notifier.domain import Kind, Status
from shared.db.columns import one_of
from shared.outbox.table import outbox_table

metadata = MetaData(schema="notifier")


_UNSETTLED = text("status IN ('due', 'sending')")

notifications = Table(
    "notifications",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("seq", BigInteger, Identity(), nullable=False),
    Column("kind", Text, nullable=False),
    Column("payment_id", Uuid, nullable=False),
    Column("posting_key", Uuid),
    Column("account_id", Text),
    Column("amount_cents", BigInteger, nullable=False),
    Column("currency", Text, nullable=False),
    Column("effective_date", Date),
    Column("balance_after_cents", BigInteger),
    Column("accepted_at", DateTime(timezone=True)),
    Column("happened_at", DateTime(timezone=True), nullable=False),
    Column("traceparent", Text),
    Column("status", Text, nullable=False),
    Column("reason", Text),
    Column("attempts", Integer, nullable=False, server_default="0"),
    # How many times it was sent although it may have been sent before.
    Column("repeats", Integer, nullable=False, server_default="0"),
    Column("due_at", DateTime(timezone=True), nullable=False),
    # Names one taking or claiming: what was leased by another one since is not ours to settle.
    Column("lease", Uuid),
    Column("message_id", Text),
    Column("taken_at", DateTime(timezone=True), nullable=False),
    Column("settled_at", DateTime(timezone=True)),
    CheckConstraint(one_of("status", Status), name="notifications_status_known"),
    CheckConstraint(one_of("kind", Kind), name="notifications_kind_known"),
    CheckConstraint("amount_cents > 0", name="notifications_amount_positive"),
    CheckConstraint(
        "status <> 'sent' OR message_id IS NOT NULL", name="notifications_sent_has_message_id"
    ),
    # claim_due: what is due or has lapsed, oldest first.
    Index("notifications_due_at", "due_at", "seq", postgresql_where=_UNSETTLED),
    # take and claim_due: what of an account is unsettled, in order.
    Index("notifications_unsettled", "account_id", "seq", postgresql_where=_UNSETTLED),
    # A payment's timeline: what its customer was told.
    Index("notifications_payment", "payment_id"),
)

failed_attempts = Table(
    "failed_attempts",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("notification_id", Uuid, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("outcome", Text, nullable=False),
    Column("reason", Text),
    Column("duration_ms", Integer, nullable=False),
    # A payment's timeline: every attempt that did not reach the mail server's yes.
    Index("failed_attempts_notification", "notification_id"),
)

contacts = Table(
    "contacts",
    metadata,
    Column("account_id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("email", Text),
    Column("locale", Text, nullable=False),
    Column("email_opted_out", Boolean),
    # The portal's own time of the last word: the last write wins, in whatever order it comes.
    Column("changed_at", DateTime(timezone=True), nullable=False),
)

outbox = outbox_table(metadata)
