"""The tables of schema `payment_intake`; migrations create what stands here."""

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
    LargeBinary,
    MetaData,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from payment_intake.domain import MovementKind, MovementStatus, PaymentStatus
from shared.db.columns import one_of
from shared.outbox.table import outbox_table

metadata = MetaData(schema="payment_intake")


events = Table(
    "events",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("source", Text, nullable=False),
    Column("event_id", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("processor", Text),
    Column("reference", Text),
    Column("digest", LargeBinary, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("received_at", DateTime(timezone=True), nullable=False),
    # take: an event counts once, for ever. The one random key of the hot path.
    Index("events_once", "source", "event_id", unique=True),
    # trace: what was heard of a payment.
    Index("events_reference", "processor", "reference", postgresql_where=text("reference <> ''")),
    # Evidence by time, at a thousandth of a tree's size.
    Index("events_received", "received_at", postgresql_using="brin"),
)

rejections = Table(
    "rejections",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("source", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("field", Text),
    Column("body", LargeBinary, nullable=False),
    Column("received_at", DateTime(timezone=True), nullable=False),
)

conflicts = Table(
    "conflicts",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("kind", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("event_id", Text, nullable=False),
    Column("payment_id", Uuid),
    Column("detail", JSONB, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False),
)

payments = Table(
    "payments",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("processor", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("account_id", Text),
    Column("amount_cents", BigInteger),
    Column("fee_cents", BigInteger, nullable=False),
    Column("currency", Text),
    Column("method", Text),
    Column("bill_reference", Text),
    Column("book", JSONB, nullable=False),
    Column("credited", Boolean, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("submitted_at", DateTime(timezone=True)),
    Column("pending_at", DateTime(timezone=True)),
    Column("captured_at", DateTime(timezone=True)),
    Column("failed_at", DateTime(timezone=True)),
    Column("traceparent", Text),
    CheckConstraint(one_of("status", PaymentStatus), name="payments_status_known"),
    CheckConstraint(
        "NOT credited OR (amount_cents > 0 AND currency IS NOT NULL)",
        name="payments_credited_has_amount",
    ),
    # The portal's list of an account's payments, newest first.
    Index("payments_account", "account_id", "created_at", "id"),
)

payment_references = Table(
    "payment_references",
    metadata,
    Column("processor", Text, primary_key=True),
    Column("reference", Text, primary_key=True),
    Column("payment_id", Uuid, nullable=False),
    # A payment with all of its names.
    Index("payment_references_payment", "payment_id"),
)

movements = Table(
    "movements",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("payment_id", Uuid, nullable=False),
    Column("kind", Text, nullable=False),
    Column("amount_cents", BigInteger, nullable=False),
    Column("effective_date", Date, nullable=False),
    Column("accepted_at", DateTime(timezone=True), nullable=False),
    Column("reason", Text),
    Column("reason_code", Text),
    Column("attempt", Text),
    Column("status", Text, nullable=False),
    Column("wait_reason", Text),
    Column("posted_at", DateTime(timezone=True)),
    Column("cis_reference", Text),
    Column("balance_after_cents", BigInteger),
    Column("confirmed_at", DateTime(timezone=True)),
    Column("notification", Text),
    Column("delayed_at", DateTime(timezone=True)),
    Column("announce_at", DateTime(timezone=True)),
    Column("announcements", Integer, nullable=False, server_default="1"),
    Column("traceparent", Text),
    CheckConstraint(one_of("status", MovementStatus), name="movements_status_known"),
    CheckConstraint(one_of("kind", MovementKind), name="movements_kind_known"),
    CheckConstraint("amount_cents > 0", name="movements_amount_positive"),
    # A payment's movements; a decline's chain is ended by its payment's id.
    Index("movements_payment", "payment_id"),
    # announce_again: what has not come through in time.
    Index("movements_announce_at", "announce_at", postgresql_where=text("announce_at IS NOT NULL")),
    # state_delays: payments that are not on the ledger, oldest first.
    Index(
        "movements_not_posted",
        "accepted_at",
        postgresql_where=text(
            "kind = 'payment' AND posted_at IS NULL AND delayed_at IS NULL AND status <> 'returned'"
        ),
    ),
)

outbox = outbox_table(metadata)
