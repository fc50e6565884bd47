"""The outside systems of payment-intake: PostgreSQL and the senders of webhooks."""
