"""`paypost trigger enrol`, `bill` and `autopay`: what customers and the CIS say, said here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from enum import StrEnum
from typing import Annotated, Any, TypeVar

import asyncpg
import typer
from pydantic import ValidationError

from paypost.commands.autopay import describe_rule, read_account
from paypost.commands.terminal import (
    AsJson,
    DoesNotHoldError,
    StackName,
    UsageError,
    load_state,
    out,
    parse_cents,
    print_json,
    run,
)
from paypost.simulators.processor.processor import expand_accounts
from paypost.stack.state import StackState
from paypost.traffic.autopay import Subscriber, enrol, state_words, subscriber_of
from paypost.traffic.bills import StatedBill, bill, bill_of, publish_bills
from paypost.traffic.customers import ensure_customers
from paypost.traffic.portal import Way
from shared.contracts.enrolments import AutopayRule
from shared.contracts.fact import Fact

Made = TypeVar("Made")

SHOWN_MAX = 5


class When(StrEnum):
    """On which day is charged."""

    DUE_DATE = "due_date"
    DAYS_BEFORE_DUE = "days_before_due"
    DAY_OF_MONTH = "day_of_month"


class HowMuch(StrEnum):
    """What is charged."""

    FULL_BALANCE = "full_balance"
    STATEMENT_BALANCE = "statement_balance"
    FIXED = "fixed"


class Word(StrEnum):
    """What a customer with autopay says."""

    PAUSED = "paused"
    RESUMED = "resumed"
    CANCELLED = "cancelled"
    INVITATION_DECLINED = "invitation_declined"


Account = Annotated[
    str, typer.Argument(metavar="ACCOUNT", help="'#' become numbers, as in 'A-####'.")
]
Accounts = Annotated[
    int, typer.Option(min=1, max=1_000_000, help="How many; needs '#' in ACCOUNT.")
]


def trigger_enrol(
    *,
    account: Account,
    accounts: Accounts = 1,
    method: Annotated[
        str, typer.Option("--token", help="The payment method; what it does is read off it.")
    ] = "pm_card_visa",
    when: Annotated[When, typer.Option("--on", help="On which day.")] = When.DUE_DATE,
    days_before: Annotated[int | None, typer.Option(help="Of days_before_due.")] = None,
    day_of_month: Annotated[int | None, typer.Option(help="Of day_of_month.")] = None,
    amount: Annotated[HowMuch, typer.Option(help="How much.")] = HowMuch.FULL_BALANCE,
    fixed: Annotated[str | None, typer.Option(help="Of fixed, as 50.00.")] = None,
    minimum: Annotated[str | None, typer.Option(help="Less is not charged.")] = None,
    maximum: Annotated[str | None, typer.Option(help="More is asked about first.")] = None,
    reference: Annotated[
        str | None, typer.Option(help="The portal's name of it; made up if absent.")
    ] = None,
    via: Annotated[Way, typer.Option(help="How it gets in.")] = Way.KAFKA,
    stack: StackName = None,
    as_json: AsJson = False,
) -> None:
    """Let customers turn autopay on at the portal; missing accounts are opened and registered.

    Exit code 1 when one was refused.
    """
    names = _names(account, accounts)
    if reference is not None and len(names) > 1:
        raise UsageError("--reference is for one account")
    rule = _rule(
        {
            "charge_on": when,
            "days_before": days_before,
            "day_of_month": day_of_month,
            "amount": amount,
            "fixed_cents": _cents(fixed, "--fixed"),
            "minimum_cents": _cents(minimum, "--minimum"),
            "maximum_cents": _cents(maximum, "--maximum"),
        }
    )
    subscribers = [
        subscriber_of(account=name, token=method, rule=rule, reference=reference) for name in names
    ]
    _checked(lambda: subscribers[0].enrolled(at=datetime.now(UTC)))
    found = run(_enrol(load_state(stack), subscribers, via))
    if as_json:
        print_json(
            {
                "enrolments": found,
                "ids": [str(each.enrolment_id) for each in subscribers[:1000]],
                "rule": rule.model_dump(mode="json"),
            }
        )
    else:
        counted = ", ".join(f"{count:,} {status}" for status, count in sorted(found.items()))
        out.print(f"{counted}: {describe_rule(rule=rule.model_dump())}, {method}, via {via}.")
        for name in names[:SHOWN_MAX]:
            out.print(f"paypost autopay show {name}")
    if found.get("refused"):
        raise DoesNotHoldError


async def _enrol(state: StackState, subscribers: Sequence[Subscriber], way: Way) -> dict[str, int]:
    connection = await asyncpg.connect(state.superuser_dsn)
    try:
        await ensure_customers(
            state=state, connection=connection, accounts=[each.account for each in subscribers]
        )
        return await enrol(state=state, connection=connection, subscribers=subscribers, way=way)
    finally:
        await connection.close()


def trigger_bill(
    *,
    account: Account,
    amount: Annotated[str, typer.Option(help="Due in all, as 84.50; -10.00 is a credit.")],
    due: Annotated[datetime, typer.Option(formats=["%Y-%m-%d"], metavar="YYYY-MM-DD")],
    accounts: Accounts = 1,
    reference: Annotated[str | None, typer.Option(help="The bill's; made up if absent.")] = None,
    version: Annotated[int, typer.Option(min=1, help="2 and above: the bill was issued anew.")] = 1,
    balance: Annotated[
        str | None, typer.Option(help="The account's balance after it; by default the amount.")
    ] = None,
    cancel: Annotated[bool, typer.Option("--cancel", help="It is not owed any more.")] = False,
    stack: StackName = None,
    as_json: AsJson = False,
) -> None:
    """State bills as the CIS's feed does: issued, issued anew (--version 2), or cancelled."""
    names = _names(account, accounts)
    if reference is not None and len(names) > 1:
        raise UsageError("--reference is for one account")
    cents = _signed_cents(amount, "--amount")
    balance_cents = cents if balance is None else _signed_cents(balance, "--balance")
    bills = [
        _versioned(
            bill_of(account=name, amount_cents=cents, due_date=due.date(), reference=reference),
            version=version,
            balance_cents=balance_cents,
        )
        for name in names
    ]
    now = datetime.now(UTC)
    _checked(lambda: bills[0].stated(at=now))
    state = load_state(stack)
    if cancel:
        run(publish_bills(state=state, facts=[each.cancelled(at=now) for each in bills]))
    else:
        run(_bill(state, bills))
    said = "cancelled" if cancel else "issued" if version == 1 else "changed"
    if as_json:
        print_json(
            {
                "said": f"bill.{said}",
                "count": len(bills),
                "amount_cents": cents,
                "due_date": due.date().isoformat(),
                "references": [each.reference for each in bills[:1000]],
            }
        )
        return
    named = f" ({bills[0].reference})" if len(bills) == 1 else ""
    out.print(f"{len(bills):,} bill.{said}{named}: {cents / 100:,.2f} due {due.date()}.")
    for name in names[:SHOWN_MAX]:
        out.print(f"paypost autopay show {name}")


async def _bill(state: StackState, bills: Sequence[StatedBill]) -> None:
    connection = await asyncpg.connect(state.superuser_dsn)
    try:
        await bill(state=state, connection=connection, bills=bills)
    finally:
        await connection.close()


def trigger_word(
    *,
    word: Annotated[Word, typer.Argument(metavar="WHAT", help=", ".join(Word))],
    account: Annotated[str, typer.Argument(metavar="ACCOUNT")],
    reference: Annotated[
        str | None, typer.Option(help="Of the enrolment; by default the account's newest.")
    ] = None,
    resume_on: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Of `paused`.")
    ] = None,
    via: Annotated[Way, typer.Option(help="How it gets in.")] = Way.KAFKA,
    stack: StackName = None,
    as_json: AsJson = False,
) -> None:
    """Say what a customer with autopay says: paused, resumed, cancelled, invitation_declined."""
    if resume_on is not None and word is not Word.PAUSED:
        raise UsageError("--resume-on is for `paused`")
    state = load_state(stack)
    known = reference or "-"
    if reference is None and word is not Word.INVITATION_DECLINED:
        enrolments = run(read_account(state=state, account=account))["enrolments"]
        if not enrolments:
            raise UsageError(f"account {account!r} has no enrolment; `paypost trigger enrol` it")
        known = enrolments[0]["reference"]
    until = resume_on.date() if resume_on else None
    fact = _checked(lambda: _word(word, Subscriber(account=account, reference=known), until))
    run(state_words(state=state, words=[fact], way=via))
    if as_json:
        print_json({"type": fact.TYPE, "id": str(fact.id()), "data": fact.model_dump(mode="json")})
    else:
        out.print(f"{fact.TYPE} is taken, via {via}. paypost autopay show {account}")


def _word(word: Word, who: Subscriber, resume_on: date | None) -> Fact:
    now = datetime.now(UTC)
    match word:
        case Word.PAUSED:
            return who.paused(at=now, resume_on=resume_on)
        case Word.RESUMED:
            return who.resumed(at=now)
        case Word.CANCELLED:
            return who.cancelled(at=now)
        case Word.INVITATION_DECLINED:
            return who.declined_invitation(at=now)


def _names(account: str, accounts: int) -> list[str]:
    if accounts > 1 and "#" not in account:
        raise UsageError("--accounts needs a place for the number in ACCOUNT, such as 'A-####'")
    return expand_accounts(account, count=accounts)


def _versioned(stated: StatedBill, *, version: int, balance_cents: int) -> StatedBill:
    return StatedBill(
        account=stated.account,
        reference=stated.reference,
        amount_cents=stated.amount_cents,
        due_date=stated.due_date,
        version=version,
        balance_cents=balance_cents,
    )


def _cents(text: str | None, option: str) -> int | None:
    return None if text is None else parse_cents(text, option=option)


def _signed_cents(text: str, option: str) -> int:
    sign = -1 if text.startswith("-") else 1
    return sign * parse_cents(text.removeprefix("-"), option=option)


def _rule(values: dict[str, Any]) -> AutopayRule:
    return _checked(lambda: AutopayRule(**values))


def _checked(make: Callable[[], Made]) -> Made:
    """What is made, or what is wrong with it by field. Raises UsageError."""
    try:
        return make()
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in each['loc']) or 'rule'}: {each['msg']}"
            for each in error.errors()
        )
        raise UsageError(problems) from None
