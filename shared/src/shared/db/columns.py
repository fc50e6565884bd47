"""What the tables of every service say alike."""

from enum import StrEnum


def one_of(column: str, values: type[StrEnum]) -> str:
    """Return the condition that a text column holds one of an enumeration's values."""
    return f"{column} IN ({', '.join(repr(str(value)) for value in values)})"
