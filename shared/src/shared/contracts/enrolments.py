"""What the portal and autopay-scheduler say alike of an enrolment: its rule and its method."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from shared.contracts.fact import NO_CONTROL_CHARACTERS
from shared.money import AmountCents

Reference = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[\x21-\x7e]+$")]
"""A name that another system gave: visible ASCII."""
Token = Annotated[
    str,
    Field(min_length=1, max_length=255, pattern=r"^[A-Za-z][A-Za-z0-9]*_[A-Za-z0-9_]{3,}$"),
]
"""A processor's token, such as `pm_…`: letters before an underscore, so never a card or bank
number, nor one that was masked on its way."""
ProcessorName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]


class PaymentMethod(BaseModel):
    """A payment method as its processor describes it: nothing that could be charged elsewhere."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    kind: Literal["card", "us_bank_account"] = "card"
    label: Annotated[str, Field(max_length=40, pattern=NO_CONTROL_CHARACTERS)] = ""
    """The brand or the bank, such as `Visa`."""
    last4: Annotated[str, Field(pattern=r"^[0-9]{4}$")] | None = None
    expires: Annotated[str, Field(pattern=r"^20[0-9]{2}-(0[1-9]|1[0-2])$")] | None = None
    """The last month in which a card is good, `YYYY-MM`."""


class AutopayRule(BaseModel):
    """When and how much: what the customer authorised."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    charge_on: Literal["due_date", "days_before_due", "day_of_month"] = "due_date"
    days_before: Annotated[int, Field(strict=True, ge=1, le=28)] | None = None
    day_of_month: Annotated[int, Field(strict=True, ge=1, le=31)] | None = None
    """29 to 31 fall on the last day of a shorter month."""
    amount: Literal["full_balance", "statement_balance", "fixed"] = "full_balance"
    fixed_cents: AmountCents | None = None
    minimum_cents: AmountCents | None = None
    """Less than this is not charged: it waits for the next bill."""
    maximum_cents: AmountCents | None = None
    """More than this is not charged: the customer is asked. Agreed as the range within which no
    ten days' notice is owed (12 CFR 1005.10(d)(2))."""

    @model_validator(mode="after")
    def _is_whole(self) -> "AutopayRule":
        for name, needed_by in (
            ("days_before", self.charge_on == "days_before_due"),
            ("day_of_month", self.charge_on == "day_of_month"),
            ("fixed_cents", self.amount == "fixed"),
        ):
            if (getattr(self, name) is not None) != needed_by:
                raise ValueError(f"{name} is {'missing' if needed_by else 'of another rule'}")
        least, most = self.minimum_cents, self.maximum_cents
        if least is not None and most is not None and least > most:
            raise ValueError("minimum_cents is above maximum_cents")
        if self.fixed_cents is not None and most is not None and self.fixed_cents > most:
            raise ValueError("fixed_cents is above maximum_cents")
        if self.fixed_cents is not None and least is not None and self.fixed_cents < least:
            # It would never be charged.
            raise ValueError("fixed_cents is below minimum_cents")
        return self
