"""The reference CIS: a double-entry ledger of customer accounts behind the posting protocol.

It is written to be believed: every effect is a balanced entry, stands in an fsynced journal before
it is answered, and every balance can be proven from the entries. docs/cis-protocol.md is what a
real CIS's adapter has to speak.
"""
