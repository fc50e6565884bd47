"""autopay-scheduler in tests: instances on a real database, told facts, by a clock that stands.

What a test says is a fact of the contracts, and goes through the service's own translation; what
it looks at are rows and outbox facts, past the code under test.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import asyncpg
import orjson
from sqlalchemy.ext.asyncio import AsyncEngine
from tests.support.announcing import Offered
from tests.support.backends import TestDatabase
from tests.support.reenrolment_database import sqlalchemy_url

from autopay_scheduler.adapters.closed_days import closed_days
from autopay_scheduler.adapters.store import SqlStore
from autopay_scheduler.adapters.tables import outbox
from autopay_scheduler.consumers import (
    to_account,
    to_bill,
    to_entry,
    to_method_news,
    to_noticed,
    to_outcome,
    to_word,
)
from autopay_scheduler.domain.charges import charge_id
from autopay_scheduler.domain.city import City
from autopay_scheduler.domain.days import BusinessDays, Calendar
from autopay_scheduler.domain.enrolments import enrolment_id
from autopay_scheduler.domain.notices import NoticeRule
from autopay_scheduler.jobs import Jobs
from autopay_scheduler.metrics import Metrics
from autopay_scheduler.usecases.announcing import (
    AnnounceCharges,
    KeepNotices,
    RestateAnnouncements,
    WarnOfExpiry,
)
from autopay_scheduler.usecases.enrolling import TakeWords
from autopay_scheduler.usecases.following import FollowCharges, FollowMethods
from autopay_scheduler.usecases.operating import Operate
from autopay_scheduler.usecases.owing import KeepBills, KeepPostings, KnowAccounts
from autopay_scheduler.usecases.planning import PlanCharges
from autopay_scheduler.usecases.requesting import CloseHeld, RequestCharges, RestateRequests
from autopay_scheduler.usecases.viewing import ViewAutopay
from shared.contracts.bills import BillCancelled, BillChanged, BillIssued
from shared.contracts.enrolments import AutopayRule, PaymentMethod
from shared.contracts.fact import Fact
from shared.contracts.notifications import (
    NotificationFailed,
    NotificationSent,
    NotificationSkipped,
)
from shared.contracts.payments import (
    ChargeDeclined,
    ChargeWithdrawn,
    DeclineCategory,
    PaymentAccepted,
    PaymentPending,
    PaymentReversed,
    ReversalReason,
)
from shared.contracts.portal import (
    AutopayCancelled,
    AutopayChanged,
    AutopayEnrolled,
    AutopayPaused,
    AutopayResumed,
    CustomerRegistered,
)
from shared.contracts.postings import PostingPosted, PostingReversed
from shared.contracts.wire import Received
from shared.db.engine import build_engine
from shared.outbox.table import Outbox

ZONE = ZoneInfo("America/Chicago")
TABLES = (
    "accounts, announcements, audit_entries, bills, charges, enrolments, expiry_warnings,"
    " failures, mandates, old_drafts, outbox, plans_due, postings, reenrolments, switches"
)
RESTATE_SECONDS = 60.0
GRACE_DAYS = 3
LEAST_CENTS = 50


def at(text: str) -> datetime:
    """An instant of the city's clock, `2026-03-02 12:00`."""
    return datetime.fromisoformat(text).replace(tzinfo=ZONE).astimezone(UTC)


def day(text: str) -> date:
    return date.fromisoformat(text)


def a_city(
    *,
    business_days: str = "before",
    zone: str = "America/Chicago",
    charge_time: time = time(6, 0),
    notice_days: int = 10,
    charge_unnotified: bool = False,
    late_grace_days: int = GRACE_DAYS,
    limit_cents: int = 1_000_000,
) -> City:
    return City(
        calendar=Calendar(
            zone=ZoneInfo(zone),
            is_closed=closed_days(country="US", subdivision=None, extra=()),
            business_days=BusinessDays(business_days),
            charge_time=charge_time,
        ),
        notice=NoticeRule(days=notice_days, charge_unnotified=charge_unnotified),
        late_grace_days=late_grace_days,
        retry_days=(3, 7),
        least_cents=LEAST_CENTS,
        limit_cents=limit_cents,
        given_up_max=3,
        currency="USD",
        token_prefixes={"stripe": ("pm_", "ba_")},
        expiry_warning_days=(60, 30, 7),
    )


class StillClock:
    """A clock that moves only when told to."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def to(self, text: str) -> None:
        self.now = at(text)

    def advance(self, **parts: float) -> None:
        self.now += timedelta(**parts)


@dataclass(frozen=True, kw_only=True)
class Stated:
    """A fact in the outbox."""

    type: str
    id: UUID
    body: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.body[name]


class Scheduler:
    """One instance of the service: its store, its use cases and its jobs."""

    def __init__(self, *, engine: AsyncEngine, clock: StillClock, city: City | None = None) -> None:
        self.clock = clock
        self.city = city or a_city()
        self.engine = engine
        self.offered = Offered()
        self.metrics = Metrics()
        store = SqlStore(
            engine=engine,
            outbox=Outbox(table=outbox),
            announce=self.offered,
            zone=self.city.calendar.zone,
            late_grace_days=self.city.late_grace_days,
        )
        self.store = store
        told: dict[str, Any] = {"store": store, "clock": clock, "metrics": self.metrics}
        self.know_accounts = KnowAccounts(store=store, clock=clock)
        self.take_words = TakeWords(**told, city=self.city)
        self.keep_bills = KeepBills(**told)
        self.keep_postings = KeepPostings(**told)
        self.follow_charges = FollowCharges(**told, city=self.city)
        self.follow_methods = FollowMethods(**told)
        self.keep_notices = KeepNotices(**told)
        self.operate = Operate(**told)
        self.view = ViewAutopay(store=store, city=self.city, clock=clock)
        done: dict[str, Any] = {"store": store, "metrics": self.metrics}
        again: dict[str, Any] = {
            **done,
            "announce": self.offered,
            "first_seconds": RESTATE_SECONDS,
            "cap_seconds": 3600.0,
        }
        self.jobs = Jobs(
            plan=PlanCharges(**done, city=self.city),
            announce=AnnounceCharges(**done, city=self.city, restate_after_seconds=RESTATE_SECONDS),
            request=RequestCharges(**done, city=self.city, restate_after_seconds=RESTATE_SECONDS),
            close=CloseHeld(**done),
            restate_requests=RestateRequests(**again),
            restate_announcements=RestateAnnouncements(**again),
            warn_of_expiry=WarnOfExpiry(**done, city=self.city),
            store=store,
            metrics=self.metrics,
        )

    async def hear(self, *facts: Fact) -> None:
        """Hear facts as one batch, translated as the consumers do."""
        batch = [received(fact) for fact in facts]
        if accounts := _translated(batch, to_account):
            await self.know_accounts(accounts)
        if words := _translated(batch, to_word):
            await self.take_words(words)
        if bills := _translated(batch, lambda each: to_bill(each, currency="USD")):
            await self.keep_bills(bills)
        if entries := _translated(batch, to_entry):
            await self.keep_postings(entries)
        if outcomes := _translated(batch, to_outcome):
            await self.follow_charges(outcomes)
        if news := _translated(batch, to_method_news):
            await self.follow_methods(news)
        if noticed := _translated(batch, to_noticed):
            await self.keep_notices(noticed)

    async def plan(self) -> int:
        return await self.jobs.plan_charges_once(now=self.clock())

    async def announce(self) -> int:
        return await self.jobs.announce_charges_once(now=self.clock())

    async def request(self) -> int:
        return await self.jobs.request_charges_once(now=self.clock())

    async def close(self) -> int:
        return await self.jobs.close_held_once(now=self.clock())

    async def restate(self) -> int:
        return await self.jobs.restate_unheard_once(now=self.clock())

    async def warn(self) -> None:
        await self.jobs.warn_of_expiry_once(now=self.clock())

    async def run(self) -> None:
        """Run the jobs as the loops do, until none of them finds work."""
        for _ in range(20):
            found = await self.plan() + await self.announce() + await self.request()
            if not found + await self.close():
                return
        raise AssertionError("the jobs never come to an end")


def _translated(batch: Sequence[Received], translate: Callable[[Received], Any]) -> list[Any]:
    return [found for each in batch if (found := translate(each)) is not None]


class SchedulerDatabase:
    """Engines on the service's schema, and a session of the superuser beside them."""

    def __init__(self, database: TestDatabase) -> None:
        self.database = database
        self._engines: list[AsyncEngine] = []
        self._watch: asyncpg.Connection[Any] | None = None

    def engine(self, *, pool_size: int = 4) -> AsyncEngine:
        engine = build_engine(
            url=sqlalchemy_url(self.database), application_name="test", pool_size=pool_size
        )
        self._engines.append(engine)
        return engine

    def scheduler(self, *, clock: StillClock, city: City | None = None) -> Scheduler:
        """One more instance, with connections of its own."""
        return Scheduler(engine=self.engine(), clock=clock, city=city)

    async def empty(self) -> None:
        await self.execute(f"TRUNCATE {TABLES}")

    async def stated(self, *types: str) -> list[Stated]:
        """The facts in the outbox, in its order; of these types, or all."""
        rows = await self.fetch("SELECT value, headers FROM outbox ORDER BY id")
        found = []
        for row in rows:
            headers = dict(orjson.loads(row["headers"]))
            if not types or headers["ce_type"] in types:
                found.append(
                    Stated(
                        type=headers["ce_type"],
                        id=UUID(headers["ce_id"]),
                        body=orjson.loads(row["value"]),
                    )
                )
        return found

    async def types(self) -> list[str]:
        return [fact.type for fact in await self.stated()]

    async def charge(self, reference: str, due: str) -> dict[str, Any]:
        """The row of one charge, by the portal's name of its enrolment and its due date."""
        [row] = await self.fetch("SELECT * FROM charges WHERE id = $1", charge_of(reference, due))
        return dict(row)

    async def status(self, reference: str, due: str) -> tuple[str, str | None]:
        row = await self.charge(reference, due)
        return row["status"], row["reason"]

    async def enrolment(self, reference: str) -> tuple[str, str | None]:
        [row] = await self.fetch(
            "SELECT status, reason FROM enrolments WHERE reference = $1", reference
        )
        return row["status"], row["reason"]

    async def value(self, query: str, *arguments: Any) -> Any:
        return (await self.fetch(query, *arguments))[0][0]

    async def fetch(self, statement: str, *arguments: Any) -> Sequence[asyncpg.Record]:
        found: Sequence[asyncpg.Record] = await (await self._session()).fetch(statement, *arguments)
        return found

    async def execute(self, statement: str, *arguments: Any) -> None:
        await (await self._session()).execute(statement, *arguments)

    async def release(self) -> None:
        """Let go of the engines that tests have made."""
        for engine in self._engines:
            await engine.dispose()
        self._engines.clear()

    async def end(self) -> None:
        await self.release()
        if self._watch is not None:
            await self._watch.close()

    async def session(self) -> "asyncpg.Connection[Any]":
        """One more session of the superuser, for the caller to close."""
        return await asyncpg.connect(
            self.database.superuser_dsn,
            server_settings={"search_path": "autopay_scheduler", "enable_seqscan": "off"},
        )

    async def _session(self) -> "asyncpg.Connection[Any]":
        if self._watch is None or self._watch.is_closed():
            self._watch = await self.session()
        return self._watch


def received(fact: Fact) -> Received:
    """A fact as it comes off its stream."""
    return Received(
        fact=fact,
        event_id=str(fact.id()),
        event_type=fact.TYPE,
        source="/test",
        time=fact.happened_at(),
        traceparent=None,
    )


# Facts ------------------------------------------------------------------------------------------

CARD = PaymentMethod(kind="card", label="Visa", last4="4242", expires="2030-12")
BANK = PaymentMethod(kind="us_bank_account", label="First Bank", last4="6789")


def charge_of(reference: str, due: str | date) -> UUID:
    due_date = date.fromisoformat(due) if isinstance(due, str) else due
    return charge_id(enrolment_id=enrolment_id(reference), due_date=due_date)


def registered(account_id: str, *, when: datetime) -> CustomerRegistered:
    return CustomerRegistered(account_id=account_id, registered_at=when)


def _authorisation(account_id: str, reference: str, when: datetime, **parts: Any) -> dict[str, Any]:
    name_of_it = re.sub(r"[^A-Za-z0-9]", "", reference)
    rule = {name: parts.pop(name) for name in list(parts) if name in AutopayRule.model_fields}
    return {
        "account_id": account_id,
        "enrolment_reference": reference,
        "processor": "stripe",
        "payment_method_token": f"pm_test{name_of_it}",
        "customer_token": f"cus_test{name_of_it}",
        "method": CARD,
        "rule": AutopayRule(**rule),
        "authorisation_version": "2026-01",
        "authorised_at": when,
        **parts,
    }


def enrolled(account_id: str, *, when: datetime, reference: str = "", **parts: Any) -> Fact:
    """Autopay is turned on; `parts` are fields of the fact or of its rule."""
    fields = _authorisation(account_id, reference or f"E-{account_id}", when, **parts)
    return AutopayEnrolled(**fields, enrolled_at=when)


def changed(account_id: str, *, when: datetime, reference: str = "", **parts: Any) -> Fact:
    fields = _authorisation(account_id, reference or f"E-{account_id}", when, **parts)
    return AutopayChanged(**fields, changed_at=when)


def paused(
    account_id: str, *, when: datetime, reference: str = "", until: str | None = None
) -> Fact:
    return AutopayPaused(
        account_id=account_id,
        enrolment_reference=reference or f"E-{account_id}",
        paused_at=when,
        resume_on=date.fromisoformat(until) if until else None,
    )


def resumed(account_id: str, *, when: datetime, reference: str = "") -> Fact:
    return AutopayResumed(
        account_id=account_id,
        enrolment_reference=reference or f"E-{account_id}",
        resumed_at=when,
    )


def cancelled(account_id: str, *, when: datetime, reference: str = "") -> Fact:
    return AutopayCancelled(
        account_id=account_id,
        enrolment_reference=reference or f"E-{account_id}",
        cancelled_at=when,
    )


def bill(
    account_id: str,
    due: str | date,
    amount_cents: int,
    *,
    when: datetime,
    reference: str = "",
    version: int = 1,
    balance_cents: int | None = None,
    currency: str = "USD",
) -> Fact:
    """A bill, or a later version of one."""
    due_date = date.fromisoformat(due) if isinstance(due, str) else due
    kind = BillIssued if version == 1 else BillChanged
    return kind(
        account_id=account_id,
        bill_reference=reference or f"B-{account_id}-{due_date.isoformat()}",
        version=version,
        amount_cents=amount_cents,
        currency=currency,
        due_date=due_date,
        stated_at=when,
        balance_cents=balance_cents,
    )


def no_bill(
    account_id: str,
    reference: str,
    *,
    when: datetime,
    version: int = 2,
    balance_cents: int | None = None,
) -> Fact:
    return BillCancelled(
        account_id=account_id,
        bill_reference=reference,
        version=version,
        stated_at=when,
        balance_cents=balance_cents,
    )


def posted(
    account_id: str,
    amount_cents: int,
    *,
    when: datetime,
    balance_cents: int,
    payment_id: UUID | None = None,
    key: UUID | None = None,
) -> PostingPosted:
    key = key or uuid4()
    return PostingPosted(
        posting_key=key,
        payment_id=payment_id or key,
        account_id=account_id,
        kind="payment",
        amount_cents=amount_cents,
        currency="USD",
        accepted_at=when,
        effective_date=when.date(),
        posted_at=when,
        cis_reference="L-1",
        balance_after_cents=balance_cents,
    )


def unposted(of: PostingPosted, *, when: datetime, balance_cents: int) -> PostingReversed:
    return PostingReversed(
        posting_key=uuid4(),
        payment_id=of.payment_id,
        account_id=of.account_id,
        kind="reversal",
        amount_cents=of.amount_cents,
        currency="USD",
        accepted_at=when,
        effective_date=when.date(),
        posted_at=when,
        cis_reference="L-2",
        balance_after_cents=balance_cents,
        reason="refund",
    )


@dataclass(frozen=True, kw_only=True)
class IntakeCharge:
    """What intake states of one charge that it was asked for."""

    charge_id: UUID
    account_id: str
    amount_cents: int
    payment_id: UUID

    def _about(self) -> dict[str, Any]:
        return {
            "payment_id": self.payment_id,
            "account_id": self.account_id,
            "processor": "stripe",
            "reference": f"pi_{self.charge_id.hex[:16]}",
            "amount_cents": self.amount_cents,
            "currency": "USD",
            "charge_id": self.charge_id,
        }

    def pending(self, when: datetime) -> Fact:
        return PaymentPending(**self._about(), pending_at=when)

    def paid(self, when: datetime) -> Fact:
        return PaymentAccepted(
            **self._about(),
            posting_key=self.payment_id,
            effective_date=when.date(),
            accepted_at=when,
        )

    def declined(
        self,
        when: datetime,
        code: str,
        *,
        attempt: str,
        category: DeclineCategory = "soft",
    ) -> Fact:
        return ChargeDeclined(
            **self._about(),
            declined_at=when,
            reason_code=code,
            category=category,
            attempt=attempt,
        )

    def reversed(
        self,
        when: datetime,
        reason: ReversalReason,
        *,
        key: UUID,
        amount_cents: int | None = None,
        code: str | None = None,
        category: DeclineCategory | None = None,
    ) -> Fact:
        about = self._about()
        if amount_cents is not None:
            about["amount_cents"] = amount_cents
        return PaymentReversed(
            **about,
            posting_key=key,
            effective_date=when.date(),
            accepted_at=when,
            reason=reason,
            reason_code=code,
            category=category,
        )

    def withdrawn(
        self, when: datetime, reason: str, *, attempt: int = 1, is_refunded: bool = False
    ) -> Fact:
        return ChargeWithdrawn(
            charge_id=self.charge_id,
            account_id=self.account_id,
            attempt=attempt,
            reason="expired" if reason == "expired" else "cancelled",
            is_refunded=is_refunded,
            amount_cents=self.amount_cents,
            currency="USD",
            withdrawn_at=when,
        )


def at_intake(request: Stated) -> IntakeCharge:
    """A charge at intake, from its request; one payment for all of its attempts."""
    charge = UUID(request["charge_id"])
    return IntakeCharge(
        charge_id=charge,
        account_id=request["account_id"],
        amount_cents=request["amount_cents"],
        payment_id=UUID(int=charge.int ^ 1),
    )


def noticed(announcement: Stated, *, when: datetime, status: str = "sent") -> Fact:
    """What notifier says became of an announcement."""
    about: dict[str, Any] = {
        "notification_id": UUID(int=announcement.id.int ^ 2),
        "kind": "charge_announced",
        "payment_id": None,
        "posting_key": None,
        "about": announcement.id,
        "account_id": announcement["account_id"],
    }
    match status:
        case "sent":
            return NotificationSent(**about, sent_at=when, message_id="<m>")
        case "failed":
            return NotificationFailed(**about, failed_at=when, reason="bounced")
        case _:
            return NotificationSkipped(**about, skipped_at=when, reason="no_address")
