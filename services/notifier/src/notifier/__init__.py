"""Tells the customer what the ledger says, after it says it."""
