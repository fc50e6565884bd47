"""What the CIS states of bills: facts of `bills.v1`, keyed by account, as its feed does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import asyncpg

from paypost.stack.state import StackState
from shared.contracts.bills import BillCancelled, BillChanged, BillIssued
from shared.contracts.fact import Fact
from shared.contracts.streams import BILLS
from shared.contracts.wire import encode
from shared.messaging.producer import RecordProducer

CIS_SOURCE = "cis"
CURRENCY = "USD"
FACTS_IN_CALL_MAX = 2_000
HEARD_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StatedBill:
    """A bill as the CIS states it.

    Attributes:
        account: whose.
        reference: the CIS's name of it.
        amount_cents: due in all; zero or less is a credit.
        due_date: by when.
        version: counts the issues of one bill.
        balance_cents: the account's balance right after it, where the CIS says it.
    """

    account: str
    reference: str
    amount_cents: int
    due_date: date
    version: int = 1
    balance_cents: int | None = None

    def issued(self, *, at: datetime) -> BillIssued:
        """It is owed."""
        return BillIssued(**self._about(at), **self._owed())

    def changed(self, *, at: datetime) -> BillChanged:
        """It was issued anew; give it a higher version."""
        return BillChanged(**self._about(at), **self._owed())

    def cancelled(self, *, at: datetime) -> BillCancelled:
        """It is not owed any more; give it a higher version."""
        return BillCancelled(**self._about(at))

    def stated(self, *, at: datetime) -> BillIssued | BillChanged:
        """It is owed, or was issued anew: as its version says."""
        return self.issued(at=at) if self.version == 1 else self.changed(at=at)

    def _about(self, at: datetime) -> dict[str, Any]:
        return {
            "account_id": self.account,
            "bill_reference": self.reference,
            "version": self.version,
            "stated_at": at,
            "balance_cents": self.balance_cents,
        }

    def _owed(self) -> dict[str, Any]:
        return {
            "amount_cents": self.amount_cents,
            "currency": CURRENCY,
            "due_date": self.due_date,
        }


def bill_of(
    *, account: str, amount_cents: int, due_date: date, reference: str | None = None
) -> StatedBill:
    """An account's bill for a due date, always of the same name; the balance is what it says."""
    return StatedBill(
        account=account,
        reference=reference or f"B-{account}-{due_date:%Y%m%d}"[:64],
        amount_cents=amount_cents,
        due_date=due_date,
        balance_cents=amount_cents,
    )


async def publish_bills(*, state: StackState, facts: Sequence[Fact]) -> None:
    """Publish these facts as the CIS's feed; returns when Kafka has all of them.

    Raises:
        KafkaUnavailableError: not all were acknowledged.
    """
    producer = RecordProducer(bootstrap_servers=state.kafka_bootstrap, client_id="paypost-cis-feed")
    try:
        for start in range(0, len(facts), FACTS_IN_CALL_MAX):
            await producer.publish(
                [
                    encode(fact, stream=BILLS, source=CIS_SOURCE)
                    for fact in facts[start : start + FACTS_IN_CALL_MAX]
                ]
            )
    finally:
        await producer.close()


async def bill(
    *,
    state: StackState,
    connection: asyncpg.Connection[Any],
    bills: Sequence[StatedBill],
    at: datetime | None = None,
) -> None:
    """State these bills, and wait until autopay-scheduler has them, in this version or a later.

    Raises:
        TimeoutError: it has not heard of all of them in time.
    """
    now = at or datetime.now(UTC)
    await publish_bills(state=state, facts=[each.stated(at=now) for each in bills])
    deadline = time.monotonic() + HEARD_TIMEOUT_SECONDS
    wanted = len({(each.account, each.reference) for each in bills})
    while await _heard(connection, bills) < wanted:
        if time.monotonic() > deadline:
            raise TimeoutError("autopay-scheduler has not heard of all bills; see its log")
        await asyncio.sleep(0.05)


async def _heard(connection: asyncpg.Connection[Any], bills: Sequence[StatedBill]) -> int:
    heard: int = await connection.fetchval(
        "SELECT count(*) FROM autopay_scheduler.bills b"
        " JOIN (SELECT account, reference, max(version) AS version"
        "       FROM unnest($1::text[], $2::text[], $3::int[]) AS r(account, reference, version)"
        "       GROUP BY account, reference) r"
        " ON b.account_id = r.account AND b.bill_reference = r.reference"
        " WHERE b.version >= r.version",
        [each.account for each in bills],
        [each.reference for each in bills],
        [each.version for each in bills],
    )
    return heard
