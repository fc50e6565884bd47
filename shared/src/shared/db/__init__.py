"""PostgreSQL as every service uses it: one engine, whole batches a statement, one schema each."""
