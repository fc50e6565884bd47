"""Posts accepted payments to the CIS ledger, exactly once in effect."""
