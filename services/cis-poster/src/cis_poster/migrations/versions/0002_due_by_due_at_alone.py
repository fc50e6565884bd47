"""The index of what is due serves those alone who ask by `due_at`.

Nobody writes to postings while the index is made: some seconds for ten million of them, which
are read once. What was to be written meanwhile is tried again.

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_UNSETTLED = "status IN ('due', 'attempting', 'unknown')"


def upgrade() -> None:
    _index("postings_due", where=f"{_UNSETTLED} AND due_at IS NOT NULL")
    op.drop_index("postings_due_at", table_name="postings", schema="cis_poster")


def downgrade() -> None:
    _index("postings_due_at", where=_UNSETTLED)
    op.drop_index("postings_due", table_name="postings", schema="cis_poster")


def _index(name: str, *, where: str) -> None:
    op.create_index(
        name,
        "postings",
        ["due_at", "seq"],
        schema="cis_poster",
        postgresql_where=sa.text(where),
    )
