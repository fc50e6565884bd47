"""The outside systems of autopay-scheduler: PostgreSQL, the holiday calendar, files of the move."""
