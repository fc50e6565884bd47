"""The tables of schema `autopay_scheduler`; migrations create what stands here."""

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
    PrimaryKeyConstraint,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from autopay_scheduler.domain.amounts import AmountRule
from autopay_scheduler.domain.bills import BillStatus
from autopay_scheduler.domain.charges import Status
from autopay_scheduler.domain.days import ChargeOn
from autopay_scheduler.domain.enrolments import EnrolmentStatus
from autopay_scheduler.domain.notices import NoticeStatus
from shared.db.columns import one_of
from shared.outbox.table import outbox_table

metadata = MetaData(schema="autopay_scheduler")


accounts = Table(
    "accounts",
    metadata,
    Column("account_id", Text, primary_key=True),
    # As the CIS last said, by its own time; none where it never did.
    Column("balance_cents", BigInteger),
    Column("balance_at", DateTime(timezone=True)),
    # All that was ever posted, reversals taken off: what was paid since a bill is a difference.
    Column("paid_cents", BigInteger, nullable=False, server_default="0"),
    Column("heard_at", DateTime(timezone=True), nullable=False),
)

postings = Table(
    "postings",
    metadata,
    Column("posting_key", Uuid, primary_key=True),
    Column("payment_id", Uuid, nullable=False),
    Column("account_id", Text, nullable=False),
    Column("signed_cents", BigInteger, nullable=False),
    Column("posted_at", DateTime(timezone=True), nullable=False),
    # A bill that is heard of late: what was posted after it was stated.
    Index("postings_account", "account_id", "posted_at"),
    # A charge whose posting is heard of before its payment.
    Index("postings_payment", "payment_id"),
)

bills = Table(
    "bills",
    metadata,
    Column("account_id", Text, nullable=False),
    Column("bill_reference", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("amount_cents", BigInteger, nullable=False),
    Column("currency", Text, nullable=False),
    Column("due_date", Date, nullable=False),
    Column("stated_at", DateTime(timezone=True), nullable=False),
    # Of `accounts.paid_cents`: what was posted before the bill was stated.
    Column("paid_before_cents", BigInteger, nullable=False),
    Column("status", Text, nullable=False),
    PrimaryKeyConstraint("account_id", "bill_reference"),
    CheckConstraint(one_of("status", BillStatus), name="bills_status_known"),
    # Lapse report: what is due when, page by page.
    Index("bills_due_date", "due_date", "account_id", postgresql_where=text("status = 'open'")),
)

plans_due = Table(
    "plans_due",
    metadata,
    # An account whose bills, enrolment or payments have changed since it was planned. A queue of
    # its own: rows are inserted and deleted, never updated beside the wide ones.
    Column("account_id", Text, primary_key=True),
    Column("due_at", DateTime(timezone=True), nullable=False),
    Index("plans_due_at", "due_at"),
)

enrolments = Table(
    "enrolments",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("account_id", Text, nullable=False),
    Column("reference", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("reason", Text),
    Column("processor", Text),
    Column("payment_method_token", Text),
    Column("customer_token", Text),
    Column("mandate_token", Text),
    Column("method_kind", Text),
    Column("method_label", Text),
    Column("method_last4", Text),
    Column("method_expires", Text),
    Column("charge_on", Text),
    Column("days_before", Integer),
    Column("day_of_month", Integer),
    Column("amount_rule", Text),
    Column("fixed_cents", BigInteger),
    Column("minimum_cents", BigInteger),
    Column("maximum_cents", BigInteger),
    Column("authorisation_version", Text),
    Column("authorised_at", DateTime(timezone=True)),
    Column("locale", Text),
    Column("resume_on", Date),
    Column("word_at", DateTime(timezone=True), nullable=False),
    Column("given_up", Integer, nullable=False, server_default="0"),
    Column("taken_at", DateTime(timezone=True), nullable=False),
    Column("ended_at", DateTime(timezone=True)),
    CheckConstraint(one_of("status", EnrolmentStatus), name="enrolments_status_known"),
    CheckConstraint(one_of("charge_on", ChargeOn), name="enrolments_charge_on_known"),
    CheckConstraint(one_of("amount_rule", AmountRule), name="enrolments_amount_rule_known"),
    CheckConstraint(
        "status NOT IN ('active', 'paused') OR (payment_method_token IS NOT NULL"
        " AND processor IS NOT NULL AND charge_on IS NOT NULL AND amount_rule IS NOT NULL)",
        name="enrolments_on_are_whole",
    ),
    # One enrolment that is on for an account; plan: an account's enrolment.
    Index(
        "enrolments_on",
        "account_id",
        unique=True,
        postgresql_where=text("status IN ('active', 'paused')"),
    ),
    # An account's history of enrolments.
    Index("enrolments_account", "account_id"),
    # A processor's word about a method.
    Index("enrolments_method", "payment_method_token"),
    # warn_expiring: cards that are good until a month.
    Index(
        "enrolments_expiry",
        "method_expires",
        "id",
        postgresql_where=text("status IN ('active', 'paused') AND method_expires IS NOT NULL"),
    ),
)

mandates = Table(
    "mandates",
    metadata,
    # Evidence: every word of the customer about autopay, as the portal stated it, for ever.
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("enrolment_id", Uuid, nullable=False),
    Column("account_id", Text, nullable=False),
    Column("event_source", Text, nullable=False),
    Column("event_id", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("said_at", DateTime(timezone=True), nullable=False),
    Column("authorisation_version", Text),
    Column("authorised_at", DateTime(timezone=True)),
    Column("document", JSONB, nullable=False),
    Column("heard_at", DateTime(timezone=True), nullable=False),
    # A word counts once, however often it comes.
    Index("mandates_once", "event_source", "event_id", "type", unique=True),
    # An account's evidence.
    Index("mandates_account", "account_id", "id"),
)

charges = Table(
    "charges",
    metadata,
    # Derived from enrolment and due date: there can be no second one.
    Column("id", Uuid, primary_key=True),
    Column("enrolment_id", Uuid, nullable=False),
    Column("account_id", Text, nullable=False),
    Column("bill_reference", Text, nullable=False),
    Column("due_date", Date, nullable=False),
    Column("planned_on", Date, nullable=False),
    # The day by the customer's rule; the notice may put the charge itself off.
    Column("chosen_on", Date, nullable=False),
    Column("charge_on", Date, nullable=False),
    Column("amount_cents", BigInteger, nullable=False),
    Column("currency", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("reason", Text),
    # When a job is to look at it next; none at its end.
    Column("act_at", DateTime(timezone=True)),
    Column("attempt", Integer, nullable=False, server_default="0"),
    Column("first_attempt_on", Date),
    Column("requested_cents", BigInteger),
    Column("requested_at", DateTime(timezone=True)),
    Column("valid_until", DateTime(timezone=True)),
    # The method as it was when the charge was asked for.
    Column("processor", Text),
    Column("payment_method_token", Text),
    Column("customer_token", Text),
    Column("mandate_token", Text),
    Column("cancelled_at", DateTime(timezone=True)),
    Column("payment_id", Uuid),
    Column("declines", ARRAY(Text), nullable=False, server_default="{}"),
    Column("paid_cents", BigInteger),
    Column("posted_at", DateTime(timezone=True)),
    Column("restatements", Integer, nullable=False, server_default="0"),
    Column("closed_at", DateTime(timezone=True)),
    Column("created_at", DateTime(timezone=True), nullable=False),
    CheckConstraint(one_of("status", Status), name="charges_status_known"),
    CheckConstraint(
        "status NOT IN ('requested', 'pending') OR requested_cents > 0",
        name="charges_requested_have_amount",
    ),
    # An account's charges; what of them is asked for and not on the ledger yet.
    Index("charges_account", "account_id", "due_date"),
    # The jobs: what is to be looked at, by kind.
    Index("charges_act_at", "status", "act_at", postgresql_where=text("act_at IS NOT NULL")),
    # claim_due, claim_unheard: the first of a million that are due at one moment. By the index
    # above, whose order two statuses break, each claim read and sorted all of them: 1.4 s for 40
    # of 200,000, measured.
    Index(
        "charges_due",
        "act_at",
        "due_date",
        "id",
        postgresql_where=text("status IN ('announced', 'retrying')"),
    ),
    Index("charges_unheard", "act_at", postgresql_where=text("status IN ('requested', 'pending')")),
    # A posting that is heard of after its payment.
    Index("charges_payment", "payment_id", postgresql_where=text("payment_id IS NOT NULL")),
    # Preview and report.
    Index("charges_charge_on", "charge_on", "account_id"),
)

announcements = Table(
    "announcements",
    metadata,
    Column("charge_id", Uuid, nullable=False),
    Column("version", Integer, nullable=False),
    # The fact's id, by which notifier says what became of telling the customer.
    Column("fact_id", Uuid, nullable=False),
    Column("amount_cents", BigInteger, nullable=False),
    Column("left_cents", BigInteger, nullable=False),
    Column("charge_on", Date, nullable=False),
    Column("announced_at", DateTime(timezone=True), nullable=False),
    Column("status", Text, nullable=False),
    Column("noticed_at", DateTime(timezone=True)),
    # The charge was held after it: it allows nothing any more.
    Column("is_void", Boolean, nullable=False, server_default="false"),
    # When it is stated again, while nobody has said what became of it.
    Column("restate_at", DateTime(timezone=True)),
    Column("restatements", Integer, nullable=False, server_default="0"),
    PrimaryKeyConstraint("charge_id", "version"),
    CheckConstraint(one_of("status", NoticeStatus), name="announcements_status_known"),
    Index("announcements_fact", "fact_id", unique=True),
    Index(
        "announcements_restate_at", "restate_at", postgresql_where=text("restate_at IS NOT NULL")
    ),
)

failures = Table(
    "failures",
    metadata,
    Column("charge_id", Uuid, nullable=False),
    # The processor's id of the declined attempt.
    Column("decline", Text, nullable=False),
    Column("document", JSONB, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False),
    PrimaryKeyConstraint("charge_id", "decline"),
)

expiry_warnings = Table(
    "expiry_warnings",
    metadata,
    # Told once for each card and warning, for ever.
    Column("enrolment_id", Uuid, nullable=False),
    Column("expires", Text, nullable=False),
    Column("days", Integer, nullable=False),
    Column("warned_at", DateTime(timezone=True), nullable=False),
    PrimaryKeyConstraint("enrolment_id", "expires", "days"),
)

switches = Table(
    "switches",
    metadata,
    Column("name", Text, primary_key=True),
    Column("is_paused", Boolean, nullable=False),
    Column("changed_at", DateTime(timezone=True), nullable=False),
)

audit_entries = Table(
    "audit_entries",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("operator", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("note", Text, nullable=False),
)

outbox = outbox_table(metadata)
