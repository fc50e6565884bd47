"""The outside systems of notifier: PostgreSQL, the mail server, and the words of the templates."""
