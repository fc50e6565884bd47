"""Notices of autopay: what they tell, and to whom it is said what became of them.

Expands only: columns that may be null, constraints that let more through. No row is read, so that
no lock is held for longer than a moment; 0003 validates. The version before this one goes on
writing beside it, and leaves alone what it does not know: it fails to read a due notice of
autopay, which then waits for an instance of this version.

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

TABLE = "notifier.notifications"
OF_PAYMENT = "kind IN ('posted', 'reversed', 'reinstated', 'delayed', 'declined')"
KINDS = (
    "kind IN ('posted', 'reversed', 'reinstated', 'delayed', 'declined', 'autopay_started', "
    "'autopay_refused', 'autopay_stopped', 'autopay_invited', 'autopay_reminded', "
    "'charge_announced', 'charge_held', 'charge_declined', 'charge_missed', 'charge_refunded', "
    "'method_expiring')"
)
ADDED = {
    "notifications_amount_has_currency": "(amount_cents IS NULL) = (currency IS NULL)",
    "notifications_payment_named": (
        f"(kind <> 'charge_declined' AND NOT {OF_PAYMENT}) OR payment_id IS NOT NULL"
    ),
    "notifications_payment_has_amount": f"NOT {OF_PAYMENT} OR amount_cents IS NOT NULL",
    "notifications_autopay_has_fact": f"(fact IS NULL) = ({OF_PAYMENT})",
}
NO_LONGER_REQUIRED = ("payment_id", "amount_cents", "currency")


def upgrade() -> None:
    op.add_column("notifications", sa.Column("about", sa.Uuid()), schema="notifier")
    op.add_column("notifications", sa.Column("fact", JSONB()), schema="notifier")
    for column in NO_LONGER_REQUIRED:
        op.alter_column("notifications", column, nullable=True, schema="notifier")
    _know_kinds(KINDS)
    for name, condition in ADDED.items():
        op.execute(f"ALTER TABLE {TABLE} ADD CONSTRAINT {name} CHECK ({condition}) NOT VALID")


def downgrade() -> None:
    # The version before cannot hold a notice of autopay: its payment and amount are required.
    op.execute(f"DELETE FROM {TABLE} WHERE NOT {OF_PAYMENT}")  # noqa: S608  a constant
    for name in ADDED:
        op.execute(f"ALTER TABLE {TABLE} DROP CONSTRAINT {name}")
    _know_kinds(OF_PAYMENT)
    op.execute(f"ALTER TABLE {TABLE} VALIDATE CONSTRAINT notifications_kind_known")
    for column in NO_LONGER_REQUIRED:
        op.alter_column("notifications", column, nullable=False, schema="notifier")
    op.drop_column("notifications", "fact", schema="notifier")
    op.drop_column("notifications", "about", schema="notifier")


def _know_kinds(condition: str) -> None:
    op.execute(
        f"ALTER TABLE {TABLE} DROP CONSTRAINT notifications_kind_known, "
        f"ADD CONSTRAINT notifications_kind_known CHECK ({condition}) NOT VALID"
    )
