"""Validate the constraints that 0002 added: reads every row, and stops nobody from writing.

In a transaction of its own: in one with 0002, that one's lock would be held for all of it.

Revision ID: 0003
Revises: 0002
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

ADDED = (
    "notifications_kind_known",
    "notifications_amount_has_currency",
    "notifications_payment_named",
    "notifications_payment_has_amount",
    "notifications_autopay_has_fact",
)


def upgrade() -> None:
    for name in ADDED:
        op.execute(f"ALTER TABLE notifier.notifications VALIDATE CONSTRAINT {name}")


def downgrade() -> None:
    """A constraint that has been validated holds as well before it was."""
