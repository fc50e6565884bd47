"""The demo: one scenario on the real system, with what must come of it written down by hand.

| module | what it knows |
|---|---|
| `scenario` | who pays what, and what goes wrong meanwhile |
| `expectations` | what must be true in the end: exact counts and sums |
"""
