"""The yardsticks and the runs: what is claimed about speed is measured here."""
