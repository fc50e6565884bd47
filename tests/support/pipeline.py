"""The whole system under load, and what those outside of it have written down.

What is believed here is what the CIS's journal and the mail sink's store hold, never what the
services say of themselves.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

import aiohttp
import asyncpg
import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.structs import OffsetAndMetadata

from paypost.simulators.cis.journal import read_journal
from paypost.simulators.mail.store import read_messages
from paypost.simulators.processor.connections import Connections
from paypost.simulators.processor.delivery import Disorder, WebhookSender
from paypost.simulators.processor.events import EventBuilder, Ids, Purchase
from paypost.simulators.processor.scenarios import Scenarios, Train
from paypost.simulators.processor.signatures import sign_standard
from paypost.stack.local import LocalStack
from paypost.stack.state import StackState
from shared.contracts.streams import STREAMS


async def eventually_true(
    holds: Callable[[], Awaitable[bool]], *, timeout_seconds: float, what: str
) -> None:
    """Wait until it holds; fail, saying what did not, when it does not in time."""
    deadline = time.monotonic() + timeout_seconds
    while not await holds():
        assert time.monotonic() < deadline, f"{what}: not within {timeout_seconds:g} s"
        await asyncio.sleep(0.05)


async def rewind(*, bootstrap: str, group: str) -> None:
    """Set every offset of a group to 0, as an operator would who wants it all again."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()

    async def is_empty() -> bool:
        (response,) = await admin.describe_consumer_groups([group])
        # error code, group id, state, …
        return bool(response.groups[0][2] == "Empty")

    try:
        # A static member leaves its group only when its session has run out.
        await eventually_true(is_empty, timeout_seconds=30, what=f"{group} without members")
    finally:
        await admin.close()
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, group_id=group, enable_auto_commit=False
    )
    await consumer.start()
    try:
        partitions = [
            TopicPartition(stream.name, partition)
            for stream in STREAMS.values()
            for partition in range(stream.partitions)
        ]
        consumer.assign(partitions)
        await consumer.commit({each: OffsetAndMetadata(0, "") for each in partitions})
    finally:
        await consumer.stop()


async def deliver(
    trains: Sequence[Train],
    *,
    url: str,
    connections_max: int,
    secret: str,
    chance: random.Random,
    concurrency: int,
    trains_per_second: float | None = None,
    disorder: Disorder | None = None,
) -> None:
    """Deliver webhooks as Stripe does, repeated until each was answered 2xx."""
    async with Connections(
        url=url, connections_max=connections_max, timeout_seconds=10
    ) as connections:
        sender = WebhookSender(
            connections=connections,
            secrets=[secret],
            clock=lambda: datetime.now(UTC),
            chance=chance,
        )
        deliveries = await sender.send_all(
            [[step.build for step in train.steps] for train in trains],
            concurrency=concurrency,
            trains_per_second=trains_per_second,
            disorder=disorder,
        )
    refused = [delivery for delivery in deliveries if not delivery.taken]
    assert not refused, f"{len(refused)} webhooks were never taken: {refused[:3]}"


@dataclass
class Pipeline:
    """Drives a running stack and compares what went in with what came out."""

    stack: LocalStack
    seed: int = 7
    trains: list[Train] = field(default_factory=list)
    _db: asyncpg.Connection | None = None
    _http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._chance = random.Random(f"{self.seed}-{time.time_ns()}")
        ids = Ids(chance=self._chance)
        self._scenarios = Scenarios(ids=ids, builder=EventBuilder(ids=ids))
        self._http = aiohttp.ClientSession()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._http is not None:
            await self._http.close()
        if self._db is not None:
            self._db.terminate()

    @property
    def state(self) -> StackState:
        return self.stack.state

    @property
    def http(self) -> aiohttp.ClientSession:
        assert self._http is not None
        return self._http

    async def open_accounts(self, accounts: Sequence[str]) -> None:
        """Make the accounts known to the CIS, and a contact of each to the notifier."""
        body = {"accounts": [{"account": account, "name": account} for account in accounts]}
        async with self.http.post(
            f"{self.state.http_urls['cis']}/v1/accounts",
            json=body,
            headers={"Authorization": f"Bearer {self.state.secrets.cis_api_key}"},
        ) as answer:
            assert answer.status < 300, await answer.text()
        now = datetime.now(UTC).isoformat()
        events = [
            {
                "specversion": "1.0",
                "id": f"reg-{account}-{self._chance.random()}",
                "source": "/portal",
                "type": "customer.registered",
                "data": {
                    "account_id": account,
                    "name": f"Customer of {account}",
                    "email": f"{account.lower()}@example.org",
                    "locale": "es" if account.endswith("7") else "en",
                    "registered_at": now,
                },
            }
            for account in accounts
        ]
        for start in range(0, len(events), 100):
            await self.portal(events[start : start + 100])
        await eventually_true(
            lambda: self._contacts_are(len(accounts)), timeout_seconds=30, what="contacts"
        )

    async def portal(self, events: Sequence[dict[str, object]]) -> None:
        """Send portal events over HTTP, as a portal that does not speak Kafka does."""
        body = orjson.dumps(list(events))
        secrets = [self.state.secrets.standard_webhook_secrets["portal"]]
        headers = sign_standard(
            body=body,
            secrets=secrets,
            message_id=f"msg_{self._chance.random()}",
            timestamp=int(time.time()),
        )
        async with self.http.post(
            f"{self.state.http_urls['payment-intake']}/portal/events",
            data=body,
            headers={**headers, "Content-Type": "application/cloudevents-batch+json"},
        ) as answer:
            assert answer.status == 200, await answer.text()

    def card(self, *, account: str, amount_cents: int, scenario: str = "card") -> Train:
        """Return a new payment's train of real Stripe events; counted in the end."""
        purchase = Purchase(account=account, amount_cents=amount_cents)
        train = self._scenarios.make(scenario, purchase=purchase)
        self.trains.append(train)
        return train

    async def send(
        self,
        trains: Sequence[Train],
        *,
        trains_per_second: float | None = None,
        disorder: Disorder | None = None,
        concurrency: int = 16,
    ) -> None:
        """Deliver webhooks as Stripe does, repeated until each was answered 2xx."""
        await deliver(
            trains,
            url=f"{self.state.http_urls['payment-intake']}/webhooks/stripe",
            connections_max=32,
            secret=self.state.secrets.stripe_webhook_secret,
            chance=self._chance,
            concurrency=concurrency,
            trains_per_second=trains_per_second,
            disorder=disorder,
        )

    async def settled(self, *, timeout_seconds: float = 60.0) -> None:
        """Wait until each payment sent so far is confirmed; fail with what is not."""
        try:
            await eventually_true(self._is_settled, timeout_seconds=timeout_seconds, what="settled")
        except AssertionError as error:
            raise AssertionError(f"{error}; left: {await self._left()}") from None

    async def assert_exactly_once(self) -> None:
        """Each payment once on the ledger, to the cent, and one mail for each; nothing else."""
        expected = {train.reference: train.purchase for train in self.trains}
        keys = {
            str(row["id"]): row["reference"]
            for row in await self._rows(
                """SELECT m.id, r.reference FROM payment_intake.movements m
                   JOIN payment_intake.payment_references r USING (payment_id)
                   WHERE m.kind = 'payment' AND r.reference = ANY($1::text[])""",
                list(expected),
            )
        }
        journal = list(read_journal(self.state.cis_journal_path))
        times = Counter(line["key"] for line in journal)
        assert max(times.values()) == 1, "a key took effect twice"
        effects = {
            keys[line["key"]]: (line["account"], line["amount_cents"])
            for line in journal
            if line["key"] in keys
        }
        wanted = {
            reference: (purchase.account, purchase.amount_cents)
            for reference, purchase in expected.items()
        }
        assert effects == wanted
        sent = Counter(message.message_id for message in read_messages(self.state.mail_store_path))
        told = await self._rows(
            """SELECT n.message_id FROM notifier.notifications n
               WHERE n.kind = 'posted' AND n.posting_key = ANY($1::uuid[])""",
            list(keys),
        )
        missing = [row["message_id"] for row in told if row["message_id"] not in sent]
        assert len(told) == len(expected)
        assert not missing, f"{len(missing)} confirmations are not in the mail sink"

    async def repeated_mails(self) -> int:
        """Return how many mails came a second time, under the same Message-ID."""
        sent = Counter(message.message_id for message in read_messages(self.state.mail_store_path))
        return sum(count - 1 for count in sent.values())

    async def value(self, query: str, *arguments: object) -> object:
        rows = await self._rows(query, *arguments)
        return rows[0][0]

    async def _rows(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        if self._db is None or self._db.is_closed():
            self._db = await asyncpg.connect(self.state.superuser_dsn)
        return list(await self._db.fetch(query, *arguments))

    async def _contacts_are(self, count: int) -> bool:
        found = await self.value("SELECT count(*) FROM notifier.contacts")
        return isinstance(found, int) and found >= count

    async def _left(self) -> list[tuple[object, ...]]:
        rows = await self._rows(
            """SELECT m.id, m.kind, m.status, m.wait_reason, m.posted_at, m.confirmed_at,
                      m.announcements, m.announce_at, p.status AS posting, p.due_at, p.attempts,
                      n.status AS notification, n.due_at AS notification_due
               FROM payment_intake.movements m
               LEFT JOIN cis_poster.postings p ON p.id = m.id
               LEFT JOIN notifier.notifications n ON n.posting_key = m.id
               WHERE m.status NOT IN ('confirmed', 'returned') LIMIT 5"""
        )
        return [tuple(row) for row in rows]

    async def _is_settled(self) -> bool:
        try:
            row = (
                await self._rows(
                    """SELECT
                         count(DISTINCT r.reference) FILTER (WHERE m.status = 'confirmed') AS done,
                         count(*) FILTER (WHERE m.status NOT IN ('confirmed', 'returned')) AS open
                       FROM payment_intake.payment_references r
                       JOIN payment_intake.movements m USING (payment_id)
                       WHERE r.reference = ANY($1::text[])""",
                    [train.reference for train in self.trains],
                )
            )[0]
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False
        return bool(row["done"] == len(self.trains) and row["open"] == 0)
