"""Alembic's entry: everything is in shared."""

from shared.db.migrations import run_environment

run_environment()
