"""Money is an integer of minor units with a currency; nothing here or anywhere is a float."""

from typing import Annotated

from pydantic import Field

AMOUNT_CENTS_MAX = 100_000_000
"""One payment above a million dollars is a mistake at a city utility: refused as absurd."""

AmountCents = Annotated[int, Field(strict=True, gt=0, le=AMOUNT_CENTS_MAX)]
"""A positive amount in minor units. Strict: `12.0`, `"12"` and `true` are refused."""

Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
"""An ISO 4217 code; which ones a city takes is a setting of payment-intake."""


def format_amount(*, amount_cents: int, currency: str) -> str:
    """Return an amount as clerks read it, such as `USD 1,234.56`; for logs and tables only."""
    sign = "-" if amount_cents < 0 else ""
    whole, cents = divmod(abs(amount_cents), 100)
    return f"{currency} {sign}{whole:,}.{cents:02d}"
