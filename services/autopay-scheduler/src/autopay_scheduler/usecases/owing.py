"""Keeping what is owed: bills, and what is posted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from autopay_scheduler.domain.bills import Bill, BillCancellation, LedgerEntry
from autopay_scheduler.ports.store import Store
from shared.clock import Clock


class OwingMetrics(Protocol):
    """What is counted of bills and postings."""

    def bills(self, *, kept: int, outdated: int) -> None: ...
    def postings(self, *, kept: int, duplicates: int) -> None: ...


@dataclass(frozen=True, kw_only=True)
class KeepBills:
    """Keeps bills, the highest version of each; what they change is planned anew."""

    store: Store
    clock: Clock
    metrics: OwingMetrics

    async def __call__(self, stated: Sequence[Bill | BillCancellation]) -> None:
        now = self.clock()
        bills = [each for each in stated if isinstance(each, Bill)]
        cancellations = [each for each in stated if isinstance(each, BillCancellation)]
        async with self.store.transaction() as unit:
            kept = await unit.keep_bills(bills, now=now) if bills else 0
            if cancellations:
                kept += await unit.cancel_bills(cancellations, now=now)
        self.metrics.bills(kept=kept, outdated=len(stated) - kept)


@dataclass(frozen=True, kw_only=True)
class KeepPostings:
    """Counts what is posted to accounts, each posting once, by its key that never expires."""

    store: Store
    clock: Clock
    metrics: OwingMetrics

    async def __call__(self, entries: Sequence[LedgerEntry]) -> None:
        async with self.store.transaction() as unit:
            kept = await unit.keep_postings(entries, now=self.clock())
        self.metrics.postings(kept=kept, duplicates=len(entries) - kept)


@dataclass(frozen=True, kw_only=True)
class KnowAccounts:
    """Notes which accounts there are: an enrolment of any other is refused."""

    store: Store
    clock: Clock

    async def __call__(self, account_ids: Sequence[str]) -> None:
        async with self.store.transaction() as unit:
            await unit.know_accounts(sorted(set(account_ids)), now=self.clock())
