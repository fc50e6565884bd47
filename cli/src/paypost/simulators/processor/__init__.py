"""The processor counterpart: Stripe's API and its events, signed and delivered as Stripe does it.

| question | module |
|---|---|
| what happens to a payment that nobody here has asked for | `scenarios`, `events` |
| how events are sent and signed | `delivery`, `signatures` |
| what the API understands and answers | `operations`, `objects`, `forms`, `errors` |
| what a payment method's token does | `tokens` |
| what was charged, and what is allowed next | `ledger`, `records` |
| what an idempotency key keeps, and how long | `idempotency` |
| how it fails on request | `switches` |
| what a crash leaves | `book`, `counterpart` |
| how ACH debits get to a bank and back | `bank`, `nacha` |
"""
