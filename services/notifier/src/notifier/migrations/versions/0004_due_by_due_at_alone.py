"""The index of what is due serves those alone who ask by `due_at`.

Nobody writes to notifications while the index is made: some seconds for ten million of them, which
are read once. What was to be written meanwhile is tried again.

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_UNSETTLED = "status IN ('due', 'sending')"


def upgrade() -> None:
    _index("notifications_due", where=f"{_UNSETTLED} AND due_at IS NOT NULL")
    op.drop_index("notifications_due_at", table_name="notifications", schema="notifier")


def downgrade() -> None:
    _index("notifications_due_at", where=_UNSETTLED)
    op.drop_index("notifications_due", table_name="notifications", schema="notifier")


def _index(name: str, *, where: str) -> None:
    op.create_index(
        name,
        "notifications",
        ["due_at", "seq"],
        schema="notifier",
        postgresql_where=sa.text(where),
    )
