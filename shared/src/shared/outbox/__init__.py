"""Facts leave a service through its database: written with the outcome, then announced."""
