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
from payment_intake.domain.charges import ChargeStatus
from payment_intake.domain.declines import MethodKind
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
    # take: an event counts once, for ever. With a payment's names the random keys of the hot path.
    Index("events_once", "source", "event_id", unique=True),
    # trace: what was heard of a payment. Day by day: a page of all references there ever were
    # would be another one for each event.
    Index(
        "events_day_reference",
        text("((received_at AT TIME ZONE 'UTC')::date)"),
        "processor",
        "reference",
        postgresql_where=text("reference <> ''"),
    ),
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
    Column("category", Text),
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

_UNSETTLED = text("status IN ('due', 'charging', 'unknown', 'refund_due', 'refunding')")

charges = Table(
    "charges",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("account_id", Text, nullable=False),
    Column("enrolment_id", Uuid, nullable=False),
    Column("due_date", Date, nullable=False),
    Column("bill_reference", Text, nullable=False),
    Column("method_kind", Text, nullable=False),
    Column("currency", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("amount_cents", BigInteger, nullable=False),
    Column("processor", Text),
    Column("payment_method_token", Text),
    Column("customer_token", Text),
    Column("mandate_token", Text),
    Column("requested_at", DateTime(timezone=True)),
    Column("valid_until", DateTime(timezone=True)),
    Column("status", Text, nullable=False),
    Column("reason", Text),
    Column("category", Text),
    Column("tries", Integer, nullable=False),
    Column("keys_spent", Integer, nullable=False),
    Column("due_at", DateTime(timezone=True), nullable=False),
    Column("lease_owner", Uuid),
    Column("reference", Text),
    Column("earlier", JSONB, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("answered_at", DateTime(timezone=True)),
    Column("cancelled_at", DateTime(timezone=True)),
    Column("ended_at", DateTime(timezone=True)),
    Column("traceparent", Text),
    CheckConstraint(one_of("status", ChargeStatus), name="charges_status_known"),
    CheckConstraint(one_of("method_kind", MethodKind), name="charges_method_kind_known"),
    CheckConstraint("amount_cents > 0", name="charges_amount_positive"),
    CheckConstraint(
        "payment_method_token IS NOT NULL OR status = 'withdrawn'", name="charges_sent_has_token"
    ),
    # claim, charge_backlog: what is due or has lapsed, the longest due first.
    Index("charges_due_at", "due_at", postgresql_where=_UNSETTLED),
    # claim_expired: what was never sent and is asked for too long ago.
    Index("charges_valid_until", "valid_until", postgresql_where=text("status = 'due'")),
)

charge_attempts = Table(
    "charge_attempts",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("charge_id", Uuid, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("operation", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("reason", Text),
    Column("reference", Text),
    Column("request_id", Text),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("duration_ms", Integer, nullable=False),
    # charge: every call that was made for it.
    Index("charge_attempts_charge", "charge_id"),
)

switches = Table(
    "switches",
    metadata,
    Column("name", Text, primary_key=True),
    Column("is_paused", Boolean, nullable=False),
    Column("operator", Text),
    Column("note", Text),
    Column("changed_at", DateTime(timezone=True)),
)

switch_changes = Table(
    "switch_changes",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("name", Text, nullable=False),
    Column("is_paused", Boolean, nullable=False),
    Column("operator", Text, nullable=False),
    Column("note", Text, nullable=False),
    Column("changed_at", DateTime(timezone=True), nullable=False),
)

outbox = outbox_table(metadata)
