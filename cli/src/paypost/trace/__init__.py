"""One payment's way over all services, told from their own tables, the CIS and the mail server."""
