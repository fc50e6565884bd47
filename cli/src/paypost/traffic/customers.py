"""Accounts at the CIS and how their customers are reached: what a payment needs to find there."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import asyncpg

from paypost.remote import Remote
from paypost.stack.state import StackState
from paypost.traffic.portal import Way, say
from shared.contracts.portal import CustomerRegistered, Locale

ACCOUNTS_IN_CALL_MAX = 5_000
REGISTRATIONS_IN_CALL_MAX = 1_000
HEARD_TIMEOUT_SECONDS = 30.0
OPENING_BALANCE_CENTS = 50_000
NAMES = ("Ada Miller", "Ben Carter", "Chloe Young", "Dana Reed", "Eli Brooks", "Fay Turner")


@dataclass(frozen=True, slots=True, kw_only=True)
class Customer:
    """A customer and the account that the utility bills."""

    account: str
    name: str
    email: str | None
    locale: Locale = "en"
    owed_cents: int = OPENING_BALANCE_CENTS

    def registered(self, *, at: datetime) -> CustomerRegistered:
        """What the portal says of this customer."""
        return CustomerRegistered(
            account_id=self.account,
            name=self.name,
            email=self.email,
            locale=self.locale,
            registered_at=at,
        )


def customer_of(*, account: str) -> Customer:
    """A made-up customer for an account number, always the same one."""
    number = sum(account.encode())
    local = re.sub(r"[^a-z0-9]+", "-", account.lower()).strip("-") or "customer"
    return Customer(
        account=account,
        name=NAMES[number % len(NAMES)],
        email=f"{local}@customers.example",
    )


async def open_accounts(*, state: StackState, customers: Sequence[Customer]) -> None:
    """Open accounts at the CIS, each with what it owes."""
    async with Remote(base_url=state.http_urls["cis"], bearer_key=state.secrets.cis_api_key) as cis:
        for start in range(0, len(customers), ACCOUNTS_IN_CALL_MAX):
            accounts = [
                {
                    "account": customer.account,
                    "name": customer.name,
                    "opening_balance_cents": customer.owed_cents,
                }
                for customer in customers[start : start + ACCOUNTS_IN_CALL_MAX]
            ]
            await cis.post("/v1/accounts", {"accounts": accounts})


async def register(
    *,
    state: StackState,
    connection: asyncpg.Connection[Any],
    customers: Sequence[Customer],
    way: Way = Way.KAFKA,
) -> None:
    """Let the portal register customers, and wait until notifier knows how to reach them.

    Raises:
        TimeoutError: notifier has not heard of all of them in time.
    """
    now = datetime.now(UTC)
    for start in range(0, len(customers), REGISTRATIONS_IN_CALL_MAX):
        some = customers[start : start + REGISTRATIONS_IN_CALL_MAX]
        await say(state=state, facts=[each.registered(at=now) for each in some], way=way)
    wanted = [customer.account for customer in customers]
    deadline = time.monotonic() + HEARD_TIMEOUT_SECONDS
    while len(await known_contacts(connection=connection, accounts=wanted)) < len(set(wanted)):
        if time.monotonic() > deadline:
            raise TimeoutError("notifier has not heard of all customers; see its log")
        await asyncio.sleep(0.05)


async def known_contacts(
    *, connection: asyncpg.Connection[Any], accounts: Sequence[str]
) -> set[str]:
    """Those of these accounts whose customers notifier knows."""
    rows = await connection.fetch(
        "SELECT account_id FROM notifier.contacts WHERE account_id = ANY($1::text[])", accounts
    )
    return {row["account_id"] for row in rows}


async def ensure_customers(
    *, state: StackState, connection: asyncpg.Connection[Any], accounts: Sequence[str]
) -> int:
    """Open and register what is missing of these accounts; how many were.

    What exists is left as it is: closed accounts stay closed, changed addresses changed.
    """
    held = await connection.fetch(
        "SELECT account FROM reference_cis.accounts WHERE account = ANY($1::text[])", accounts
    )
    at_cis = {row["account"] for row in held}
    unopened = [customer_of(account=each) for each in accounts if each not in at_cis]
    if unopened:
        await open_accounts(state=state, customers=unopened)
    reachable = await known_contacts(connection=connection, accounts=accounts)
    unknown = [customer_of(account=each) for each in accounts if each not in reachable]
    if unknown:
        await register(state=state, connection=connection, customers=unknown)
    return len(unopened) + len(unknown)
