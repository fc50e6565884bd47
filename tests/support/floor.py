"""The benchmark's floor on real servers, under load, and what CIS and mail sink hold in the end."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import aiohttp
import asyncpg
from bench.yardsticks.contract import database_name
from bench.yardsticks.floor.yardstick import FloorYardstick
from tests.support.pipeline import deliver, eventually_true

from paypost.simulators.cis.journal import read_journal
from paypost.simulators.mail.store import read_messages
from paypost.simulators.processor.delivery import Disorder
from paypost.simulators.processor.events import EventBuilder, Ids, Purchase
from paypost.simulators.processor.scenarios import Scenarios, Train
from paypost.stack.local import LocalStack
from paypost.traffic.customers import Customer, customer_of

ACCOUNTS = tuple(f"FLOOR-{number:03d}" for number in range(40))
CUSTOMERS: dict[str, Customer] = {each: customer_of(account=each) for each in ACCOUNTS}


@dataclass
class FloorUnderTest:
    """Sends payments to a running floor; what it believes is what others have written down."""

    stack: LocalStack
    floor: FloorYardstick
    trains: list[Train] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._chance = random.Random(11)
        ids = Ids(chance=self._chance)
        self._scenarios = Scenarios(ids=ids, builder=EventBuilder(ids=ids))

    def cards(self, count: int, *, accounts: Sequence[str] = ACCOUNTS) -> list[Train]:
        """Return new card payments, four events each, no two of the same amount."""
        made = [
            self._scenarios.make(
                "card",
                purchase=Purchase(
                    account=accounts[number % len(accounts)],
                    amount_cents=1_000 + len(self.trains) + number,
                    fee_cents=195,
                ),
            )
            for number in range(count)
        ]
        self.trains += made
        return made

    async def send(
        self,
        trains: Sequence[Train],
        *,
        trains_per_second: float | None = None,
        disorder: Disorder | None = None,
        concurrency: int = 32,
    ) -> None:
        """Deliver webhooks as Stripe does, repeated until each was answered 2xx."""
        await deliver(
            trains,
            url=self.floor.webhook_url,
            connections_max=64,
            secret=self.stack.state.secrets.stripe_webhook_secret,
            chance=self._chance,
            concurrency=concurrency,
            trains_per_second=trains_per_second,
            disorder=disorder,
        )

    async def switch_cis(self, switches: dict[str, object]) -> None:
        """Set switches of the reference CIS."""
        url = f"{self.stack.state.http_urls['cis']}/_switches"
        async with aiohttp.ClientSession() as session, session.put(url, json=switches) as answer:
            assert answer.status == 200, await answer.text()

    async def settled(self, *, timeout_seconds: float = 30.0) -> None:
        """Wait until the floor's own chain has ended for each payment sent so far."""

        async def holds() -> bool:
            row = (
                await self.rows(
                    """SELECT (SELECT count(*) FROM payments
                               WHERE posted_at IS NOT NULL AND confirmed_at IS NOT NULL) AS done,
                              (SELECT count(*) FROM payments_outbox)
                            + (SELECT count(*) FROM postings_outbox)
                            + (SELECT count(*) FROM notifications_outbox) AS unpublished"""
                )
            )[0]
            return bool(row["done"] == len(self.trains) and row["unpublished"] == 0)

        await eventually_true(holds, timeout_seconds=timeout_seconds, what="every chain ended")

    def assert_exactly_once(self) -> None:
        """Each payment once on the ledger, to the cent, and told under one Message-ID."""
        expected = Counter(
            (train.purchase.account, train.purchase.amount_cents) for train in self.trains
        )
        journal = list(read_journal(self.stack.state.cis_journal_path))
        assert Counter((line["account"], line["amount_cents"]) for line in journal) == expected
        mails = {
            message.message_id: (
                message.recipients[0],
                self._amount_in(message.body(subtype="plain")),
            )
            for message in read_messages(self.stack.state.mail_store_path)
        }
        assert Counter(mails.values()) == Counter(
            (CUSTOMERS[account].email, f"${cents // 100:,}.{cents % 100:02d}")
            for account, cents in expected
        )

    def repeated_mails(self) -> int:
        """Return how many mails came a second time, under the same Message-ID."""
        sent = Counter(
            message.message_id for message in read_messages(self.stack.state.mail_store_path)
        )
        return sum(sent.values()) - len(sent)

    async def rows(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        """Read the floor's own tables."""
        address = self.stack.state.superuser_dsn.rpartition("/")[0]
        connection = await asyncpg.connect(f"{address}/{database_name(yardstick='floor')}")
        try:
            return list(await connection.fetch(query, *arguments))
        finally:
            await connection.close()

    @staticmethod
    def _amount_in(text: str | None) -> str:
        found = re.search(r"^Amount: (.*)$", text or "", re.MULTILINE)
        assert found is not None, text
        return found[1]
