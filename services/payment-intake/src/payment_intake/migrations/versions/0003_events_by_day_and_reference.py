"""The index of what was heard of a payment goes by day: today's events fall on today's pages.

Nobody writes to events while the index is made: some ten seconds for ten million of them, which
are read once. A webhook that waits for it too long is answered 503, and sent again.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _index("events_day_reference", sa.text("((received_at AT TIME ZONE 'UTC')::date)"))
    op.drop_index("events_reference", table_name="events", schema="payment_intake")


def downgrade() -> None:
    _index("events_reference")
    op.drop_index("events_day_reference", table_name="events", schema="payment_intake")


def _index(name: str, *first: sa.TextClause) -> None:
    op.create_index(
        name,
        "events",
        [*first, "processor", "reference"],
        schema="payment_intake",
        postgresql_where=sa.text("reference <> ''"),
    )
