"""How many examples a property test tries: few in `make test`, many when somebody has an hour."""

import os

FACTOR = int(os.environ.get("PAYPOST_TEST_EXAMPLES", "1"))
"""By how much more than `make test` the properties are tried."""


def examples(ordinary: int) -> int:
    """Return how many examples to try; `ordinary` is what `make test` has the time for."""
    return ordinary * FACTOR
