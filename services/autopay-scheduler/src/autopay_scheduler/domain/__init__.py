"""When, how much, how often and why not: every rule of autopay as a pure function."""
