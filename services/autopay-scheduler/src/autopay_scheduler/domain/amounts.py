"""How much is charged, and why nothing is."""

from dataclasses import dataclass
from enum import StrEnum


class AmountRule(StrEnum):
    """How much the customer chose to have charged."""

    FULL_BALANCE = "full_balance"
    STATEMENT_BALANCE = "statement_balance"
    FIXED = "fixed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the customer set on the amount."""

    amount: AmountRule
    fixed_cents: int | None = None
    """Set for a fixed amount and for nothing else."""
    minimum_cents: int | None = None
    maximum_cents: int | None = None

    def __post_init__(self) -> None:
        if (self.fixed_cents is None) is (self.amount is AmountRule.FIXED):
            raise ValueError("fixed_cents belongs to a fixed amount, and to nothing else")


@dataclass(frozen=True, slots=True, kw_only=True)
class Owed:
    """What is known of an account at one moment, in minor units."""

    statement_cents: int
    """The bill's total due; zero or less where it is a credit."""
    paid_since_cents: int
    """Posted to the account since the bill was stated, reversals taken off."""
    balance_cents: int | None
    """The whole balance as the CIS last said, by a posting or by its newest bill, whose total is
    the balance where it says no other. None where it has said none since the bill, or has
    cancelled what said it: what was said before knows nothing of the bill, and would take it for
    paid."""
    open_cents: int
    """Asked for by autopay and not on the ledger yet, paid or not; without the charge that is
    judged. Never asked for twice."""
    is_newest: bool = True
    """Whether no later bill is open. What a later one added is due on its own day: an earlier due
    date takes what is left of its own bill, by whichever rule."""


@dataclass(frozen=True, slots=True)
class Charge:
    """So much is to be charged."""

    amount_cents: int


@dataclass(frozen=True, slots=True)
class Skip:
    """Nothing is to be charged, and nobody has to do anything."""

    reason: str


@dataclass(frozen=True, slots=True)
class Hold:
    """More is owed than the customer's maximum: the customer is asked."""

    amount_cents: int
    maximum_cents: int


Verdict = Charge | Skip | Hold


def due_cents(*, limits: Limits, owed: Owed) -> int:
    """Return what the rule asks for now; zero or less where nothing is owed.

    Never more than the balance, where that is known, less what is already asked for: a customer
    who paid by other means is charged the rest, or nothing. The full balance takes in what was
    charged to the account since the bill, as long as no later bill says when that is due; the
    statement balance does not.
    """
    balance_cents = _balance(owed)
    statement_cents = min(_left_of_statement(owed), balance_cents)
    due = balance_cents if owed.is_newest else statement_cents
    match limits.amount:
        case AmountRule.FULL_BALANCE:
            return due - owed.open_cents
        case AmountRule.STATEMENT_BALANCE:
            return statement_cents - owed.open_cents
        case AmountRule.FIXED:
            return min(limits.fixed_cents or 0, due - owed.open_cents)


def judge(*, limits: Limits, owed: Owed, least_cents: int, limit_cents: int) -> Verdict:
    """Return what is to be done about a bill now.

    Args:
        limits: what the customer set.
        owed: what is known now.
        least_cents: the least that the processor charges.
        limit_cents: the city's own maximum.
    """
    amount_cents = due_cents(limits=limits, owed=owed)
    if amount_cents <= 0:
        return Skip(_nothing_due(owed, amount_cents))
    if is_too_little(amount_cents, limits=limits, least_cents=least_cents):
        return Skip("below_minimum")
    maximum_cents = min(limits.maximum_cents or limit_cents, limit_cents)
    if amount_cents > maximum_cents:
        return Hold(amount_cents, maximum_cents)
    return Charge(amount_cents)


def is_too_little(amount_cents: int, *, limits: Limits, least_cents: int) -> bool:
    """Return whether so little is not worth a charge to the customer, or none to the processor."""
    return amount_cents < max(limits.minimum_cents or 0, least_cents)


def _nothing_due(owed: Owed, amount_cents: int) -> str:
    if _balance(owed) < 0:
        return "in_credit"
    # What is asked for covers what would be due without it.
    return "charge_under_way" if amount_cents + owed.open_cents > 0 else "paid"


def _left_of_statement(owed: Owed) -> int:
    return owed.statement_cents - owed.paid_since_cents


def _balance(owed: Owed) -> int:
    return _left_of_statement(owed) if owed.balance_cents is None else owed.balance_cents
