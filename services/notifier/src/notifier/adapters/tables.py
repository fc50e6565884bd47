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
from sqlalchemy.dialects.postgresql import JSONB

from notifier.domain import OF_PAYMENTS, Kind, Status
from shared.db.columns import one_of
from shared.outbox.table import outbox_table

metadata = MetaData(schema="notifier")


_UNSETTLED = text("status IN ('due', 'sending')")
_DUE = text(f"{_UNSETTLED.text} AND due_at IS NOT NULL")
"""For those alone who ask by `due_at`, which is never null: a plan of a time when little was due
took the index of what is due for the shortest way to an account, and read all of it each time."""
_OF_PAYMENT = f"kind IN ({', '.join(repr(str(kind)) for kind in OF_PAYMENTS)})"

notifications = Table(
    "notifications",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("seq", BigInteger, Identity(), nullable=False),
    Column("kind", Text, nullable=False),
    # The id of the fact that it tells of: notifications.v1 gives it back to whoever stated that.
    Column("about", Uuid),
    Column("payment_id", Uuid),
    Column("posting_key", Uuid),
    Column("account_id", Text),
    Column("amount_cents", BigInteger),
    Column("currency", Text),
    Column("effective_date", Date),
    Column("balance_after_cents", BigInteger),
    Column("accepted_at", DateTime(timezone=True)),
    Column("happened_at", DateTime(timezone=True), nullable=False),
    Column("traceparent", Text),
    # What a notice of autopay tells, whole: read back by its contract, so that a later version of
    # this service, which knows more fields, still reads it.
    Column("fact", JSONB),
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
        "(amount_cents IS NULL) = (currency IS NULL)", name="notifications_amount_has_currency"
    ),
    CheckConstraint(
        f"(kind <> 'charge_declined' AND NOT {_OF_PAYMENT}) OR payment_id IS NOT NULL",
        name="notifications_payment_named",
    ),
    CheckConstraint(
        f"NOT {_OF_PAYMENT} OR amount_cents IS NOT NULL", name="notifications_payment_has_amount"
    ),
    CheckConstraint(f"(fact IS NULL) = ({_OF_PAYMENT})", name="notifications_autopay_has_fact"),
    CheckConstraint(
        "status <> 'sent' OR message_id IS NOT NULL", name="notifications_sent_has_message_id"
    ),
    # claim_due: what is due or has lapsed, oldest first.
    Index("notifications_due", "due_at", "seq", postgresql_where=_DUE),
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
