"""The verdict on a stack: whether everything accepted arrived exactly once, and what if not."""

from __future__ import annotations

import collections
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import aiohttp
import asyncpg

from paypost.dead.letters import count_dead_letters
from paypost.stack.local import CITY_TIME_ZONE
from paypost.stack.state import StackState
from paypost.verify.autopay import AutopayTally, Terms, compare_autopay
from paypost.verify.autopay_world import DatabaseAutopayBooks
from paypost.verify.compare import Difference, Fault, Tally, compare
from paypost.verify.pending import Pending, has_autopay, read_pending, wait_until_settled
from paypost.verify.world import DatabaseBooks, Extras, open_books, read_extras

DIFFERENCES_KEPT_MAX = 500
"""Of each fault; all are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where the books of a stack are."""

    database_url: str
    journal_path: Path
    mail_store_path: Path
    kafka_bootstrap: str
    cis_url: str
    cis_api_key: str
    charges_journal_path: Path | None = None
    """The processor's own book; without one nothing was ever charged by autopay."""
    zone: ZoneInfo = field(default_factory=lambda: ZoneInfo(CITY_TIME_ZONE))
    """The city's."""
    terms: Terms = field(default_factory=Terms)
    """The city's rules of autopay."""

    @classmethod
    def of(
        cls,
        *,
        state: StackState,
        database_url: str | None = None,
        terms: Terms | None = None,
    ) -> Places:
        """Those of a running stack; `terms` where its autopay has others than the service's."""
        return cls(
            database_url=database_url or state.superuser_dsn,
            journal_path=state.cis_journal_path,
            mail_store_path=state.mail_store_path,
            kafka_bootstrap=state.kafka_bootstrap,
            cis_url=state.http_urls["cis"],
            cis_api_key=state.secrets.cis_api_key,
            charges_journal_path=state.charges_journal_path,
            terms=terms or Terms(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What `verify` found.

    Attributes:
        differences: the first of each fault.
        counts: how many of each fault there are in all.
        tally: what was counted on the way.
        autopay: what was counted of autopay.
        extras: outboxes, evidence and alarms.
        dead_letters: by dead-letter topic.
        pending: what was on its way at the end of the wait.
        proof: the CIS's own check of its balances.
        seconds: how long it took.
    """

    differences: tuple[Difference, ...]
    counts: dict[Fault, int]
    tally: Tally
    autopay: AutopayTally
    extras: Extras
    dead_letters: dict[str, int]
    pending: Pending
    proof: dict[str, Any]
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether nothing differs."""
        return not self.counts

    @property
    def dead(self) -> int:
        """Dead letters and rejected webhooks together."""
        return sum(self.dead_letters.values()) + self.extras.rejections

    def count(self, fault: Fault) -> int:
        """How often a fault was found."""
        return self.counts.get(fault, 0)

    def as_json(self) -> dict[str, Any]:
        """Everything, for machines."""
        return {
            "holds": self.holds,
            "lost": self.count(Fault.LOST),
            "twice": self.count(Fault.TWICE),
            "invented": self.count(Fault.INVENTED),
            "faults": {str(fault): n for fault, n in sorted(self.counts.items())},
            "differences": [
                {
                    "fault": str(each.fault),
                    "key": each.key,
                    "payment_id": each.payment_id,
                    "detail": each.detail,
                }
                for each in self.differences
            ],
            "books": [
                {
                    "book": book,
                    "kind": kind,
                    "currency": currency,
                    "count": found.count,
                    "amount_cents": found.cents,
                }
                for (book, kind, currency), found in sorted(self.tally.sums.items())
            ],
            "autopay": self.autopay.as_json(),
            "held": dict(self.tally.held),
            "notices": dict(self.tally.notices),
            "mails": self.tally.mails,
            "mails_repeated": self.tally.mails_repeated,
            "outboxes": self.extras.outboxes,
            "rejections": self.extras.rejections,
            "conflicts": self.extras.conflicts,
            "dead_letters": self.dead_letters,
            "pending": self.pending.as_json(),
            "balances_proven": bool(self.proof.get("proven")),
            "seconds": round(self.seconds, 3),
        }


async def verify(*, places: Places, wait_seconds: float = 0.0, expect_dead: int = 0) -> Report:
    """Hold all books against each other.

    Args:
        places: where they are.
        wait_seconds: how long to wait first until nothing is on its way.
        expect_dead: how many dead letters and rejected webhooks there are to be.

    Raises:
        OSError, asyncpg.PostgresError, aiohttp.ClientError: a book cannot be read.
    """
    connection = await asyncpg.connect(places.database_url)
    try:
        if wait_seconds > 0:
            await wait_until_settled(
                connection=connection,
                timeout_seconds=wait_seconds,
                ahead=places.terms.clock_ahead,
            )
        started = time.monotonic()
        dead_letters = await count_dead_letters(bootstrap=places.kafka_bootstrap)
        kept: list[Difference] = []
        counts: collections.Counter[Fault] = collections.Counter()
        tally = Tally()
        autopay = AutopayTally()

        def note(difference: Difference) -> None:
            counts[difference.fault] += 1
            if counts[difference.fault] <= DIFFERENCES_KEPT_MAX:
                kept.append(difference)

        async with open_books(
            connection=connection,
            journal_path=places.journal_path,
            mail_store_path=places.mail_store_path,
        ) as books:
            async for difference in compare(books=books, tally=tally):
                note(difference)
            async for difference in _autopay_differences(books, places, autopay):
                note(difference)
            extras = await read_extras(connection=connection)
        pending = await read_pending(connection=connection, ahead=places.terms.clock_ahead)
        proof = await _read_proof(places)
        for difference in _beside(extras, dead_letters, proof, expect_dead):
            note(difference)
    finally:
        await connection.close()
    return Report(
        differences=tuple(kept),
        counts=dict(counts),
        tally=tally,
        autopay=autopay,
        extras=extras,
        dead_letters=dead_letters,
        pending=pending,
        proof=proof,
        seconds=time.monotonic() - started,
    )


async def _autopay_differences(
    books: DatabaseBooks, places: Places, tally: AutopayTally
) -> AsyncIterator[Difference]:
    if not await has_autopay(connection=books.connection):
        return
    of_autopay = DatabaseAutopayBooks(
        connection=books.connection,
        at=books.at,
        charges_journal_path=places.charges_journal_path,
        zone=places.zone,
        late_grace_days=places.terms.late_grace_days,
        clock_ahead=places.terms.clock_ahead,
    )
    async for difference in compare_autopay(books=of_autopay, tally=tally, terms=places.terms):
        yield difference


def _beside(
    extras: Extras, dead_letters: dict[str, int], proof: dict[str, Any], expect_dead: int
) -> list[Difference]:
    found = [
        Difference(fault=Fault.OUTBOX, key=service, detail=f"{count} facts wait for Kafka")
        for service, count in extras.outboxes.items()
        if count
    ]
    dead = sum(dead_letters.values()) + extras.rejections
    if dead != expect_dead:
        where = [f"{topic}: {count}" for topic, count in dead_letters.items() if count]
        where += [f"rejected webhooks: {extras.rejections}"] if extras.rejections else []
        found.append(
            Difference(
                fault=Fault.DEAD_LETTERS,
                key="dead",
                detail=f"expected {expect_dead}, found {dead} ({', '.join(where) or 'none'})",
            )
        )
    if not proof.get("proven"):
        found.append(
            Difference(
                fault=Fault.BALANCE,
                key="ledger",
                detail=f"the CIS cannot prove its balances: {proof.get('differences')}",
            )
        )
    return found


async def _read_proof(places: Places) -> dict[str, Any]:
    headers = {"authorization": f"Bearer {places.cis_api_key}"}
    async with (
        aiohttp.ClientSession(headers=headers, raise_for_status=True) as session,
        session.get(f"{places.cis_url}/v1/ledger/proof") as response,
    ):
        proof: dict[str, Any] = await response.json()
        return proof
