"""What did not hold."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One thing that did not hold.

    Attributes:
        oracle: its letter, or the word for a check of one fault.
        what: the difference, with the names to look for in the journals.
    """

    oracle: str
    what: str

    def __str__(self) -> str:
        return f"{self.oracle}: {self.what}"
