"""The outside systems of cis-poster: PostgreSQL and the CIS."""
