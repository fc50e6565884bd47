"""One payment's way over all services, told from their own tables, the CIS and the mail server.

| module | what it knows |
|---|---|
| `moments` | one thing that happened, and the mails that came of it |
| `autopay` | a charge of autopay from the customer's first word on, and why it waited |
| `timeline` | a payment's way; with its charge's, where autopay made it |
"""
