"""The fakes of cis-poster's ports, and the use cases put together on them or on the real ones.

The suites under `tests/contract/cis_poster` hold each fake to what its real counterpart does.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from cis_poster.domain import (
    ACCOUNT_MISSING,
    CIS_UNAVAILABLE,
    HELD_BACK,
    UNSETTLED,
    Answer,
    Attempt,
    Kind,
    Outcome,
    Posting,
    Status,
)
from cis_poster.ports import CisGateway, HeldLanes, Postings, Settlement, Suspended, Taken
from cis_poster.usecases import Attempting, PostDue, PostPayments
from shared.contracts.fact import Fact
from shared.contracts.postings import (
    PostingDeferred,
    PostingPosted,
    PostingReturned,
    PostingReversed,
    PostingSuspended,
)
from shared.contracts.streams import POSTINGS
from shared.contracts.wire import encode
from shared.outbox.table import OutboxRow
from shared.work.backoff import Backoff
from shared.work.batcher import MicroBatcher
from shared.work.lanes import Lanes
from shared.work.limit import AdaptiveLimit, Breaker
from shared.work.patience import patiently

NOON = datetime(2026, 3, 5, 18, 0, 0, tzinfo=UTC)
SUSPENSE = (Status.SUSPENDED, Status.CONFLICTED)


def a_posting(
    *,
    account_id: str | None = "A-1",
    amount_cents: int = 2_500,
    kind: Kind = Kind.PAYMENT,
    of: Posting | None = None,
    reference: str = "pi_1",
    accepted_at: datetime = NOON,
    traceparent: str | None = None,
) -> Posting:
    """A posting; `of` is the payment that a reversal or reinstatement is about."""
    key = uuid4()
    return Posting(
        id=key,
        payment_id=of.id if of else key,
        kind=kind,
        account_id=account_id,
        amount_cents=amount_cents,
        currency="USD",
        effective_date=date(2026, 3, 5),
        accepted_at=accepted_at,
        processor="stripe",
        reference=reference,
        reason_code=None if kind is Kind.PAYMENT else "refund",
        traceparent=traceparent,
    )


def a_reversal(of: Posting, *, amount_cents: int | None = None, **members: Any) -> Posting:
    members = {"account_id": of.account_id} | members
    cents = of.amount_cents if amount_cents is None else amount_cents
    return a_posting(of=of, kind=Kind.REVERSAL, amount_cents=cents, **members)


class StillClock:
    """A clock that moves only when told to."""

    def __init__(self, now: datetime = NOON) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> datetime:
        self.now += timedelta(seconds=seconds)
        return self.now

    def monotonic(self) -> float:
        return self.now.timestamp()


class StubCisGateway:
    """A ledger in memory that can be told what to do wrong; see `cis_poster.ports.CisGateway`.

    `post_faults` is consumed a call: a function that gets the postings and says what happens.
    """

    def __init__(self, *, accounts: Sequence[str] = (), open_to_all: bool = True) -> None:
        self.ledger: dict[UUID, Posting] = {}
        self.journal: list[Posting] = []
        self.calls: list[tuple[str, tuple[UUID, ...]]] = []
        self.refusals: dict[str, str] = {}
        self.unavailable: dict[str, str] = {}
        self.other_amounts: dict[UUID, int] = {}
        self.post_faults: list[str] = []
        self.find_faults: list[str] = []
        self.before_call: Callable[[str, Sequence[Posting]], Awaitable[None]] | None = None
        self._accounts = set(accounts)
        self._open_to_all = open_to_all

    async def post(self, postings: Sequence[Posting]) -> Sequence[Answer]:
        self.calls.append(("post", tuple(posting.id for posting in postings)))
        if self.before_call:
            await self.before_call("post", postings)
        fault = self.post_faults.pop(0) if self.post_faults else None
        match fault:
            case "lost_before":
                return [Answer(outcome=Outcome.LOST, reason="cis_timeout") for _ in postings]
            case "lost_after":
                self._apply_all(postings)
                return [Answer(outcome=Outcome.LOST, reason="cis_timeout") for _ in postings]
            case "down":
                return [Answer(outcome=Outcome.UNAVAILABLE, reason="down") for _ in postings]
            case "defect":
                raise ZeroDivisionError("a defect of the gateway")
            case _:
                return self._apply_all(postings)

    async def find(self, postings: Sequence[Posting]) -> Sequence[Answer]:
        self.calls.append(("find", tuple(posting.id for posting in postings)))
        if self.before_call:
            await self.before_call("find", postings)
        if self.find_faults:
            return [Answer(outcome=Outcome.LOST, reason=self.find_faults.pop(0)) for _ in postings]
        return [
            self._on_ledger(posting.id, Outcome.EXISTS)
            if posting.id in self.ledger
            else Answer(outcome=Outcome.NOT_FOUND)
            for posting in postings
        ]

    def posted(self, account_id: str) -> list[UUID]:
        return [posting.id for posting in self.journal if posting.account_id == account_id]

    def _apply_all(self, postings: Sequence[Posting]) -> list[Answer]:
        stopped: set[str | None] = set()
        answers = []
        for posting in postings:
            if posting.account_id in stopped:
                answers.append(replace(HELD_BACK, reason="not_attempted"))
                continue
            answer = self._apply(posting)
            if answer.outcome is Outcome.UNAVAILABLE:
                stopped.add(posting.account_id)
            answers.append(answer)
        return answers

    def _apply(self, posting: Posting) -> Answer:
        account = posting.account_id or ""
        if account in self.unavailable:
            return Answer(outcome=Outcome.UNAVAILABLE, reason=self.unavailable[account])
        if posting.id in self.other_amounts:
            return Answer(
                outcome=Outcome.EXISTS,
                cis_reference="CIS-0",
                balance_cents=0,
                amount_cents=self.other_amounts[posting.id],
                account_id=account,
            )
        held = self.ledger.get(posting.id)
        if held is not None:
            same = (held.amount_cents, held.account_id) == (posting.amount_cents, account)
            return self._on_ledger(posting.id, Outcome.EXISTS if same else Outcome.CONFLICT)
        if reason := self._refusal(posting):
            return Answer(outcome=Outcome.REFUSED, reason=reason)
        self.ledger[posting.id] = posting
        self.journal.append(posting)
        return self._on_ledger(posting.id, Outcome.APPLIED)

    def _refusal(self, posting: Posting) -> str | None:
        account = posting.account_id or ""
        if account in self.refusals:
            return self.refusals[account]
        if not self._open_to_all and account not in self._accounts:
            return "account_unknown"
        payment = self.ledger.get(posting.payment_id)
        if posting.kind is not Kind.PAYMENT and (
            payment is None or payment.account_id != posting.account_id
        ):
            return "payment_unknown"
        return None

    def _on_ledger(self, key: UUID, outcome: Outcome) -> Answer:
        held = self.ledger[key]
        return Answer(
            outcome=outcome,
            cis_reference=f"CIS-{list(self.ledger).index(key) + 1}",
            balance_cents=-sum(
                posting.amount_cents * (-1 if posting.kind is Kind.REVERSAL else 1)
                for posting in self.ledger.values()
                if posting.account_id == held.account_id
            ),
            posted_at=NOON + timedelta(seconds=1),
            amount_cents=held.amount_cents,
            account_id=held.account_id,
        )


@dataclass(kw_only=True)
class Row:
    """A posting as the fake keeps it."""

    posting: Posting
    seq: int
    status: Status
    due_at: datetime
    owner: UUID | None = None
    reason: str | None = None
    attempts: int = 0
    suspensions: int = 0
    answer: Answer | None = None
    settled_at: datetime | None = None
    behind: int = -1
    """The last `seq` when it was woken: what was taken by then may go before it."""


class InMemoryPostings:
    """See `cis_poster.ports.Postings`; several may share `rows`, as instances share a database."""

    def __init__(
        self,
        *,
        lease_seconds: float = 30.0,
        rows: dict[UUID, Row] | None = None,
        outbox: list[OutboxRow] | None = None,
    ) -> None:
        self.rows: dict[UUID, Row] = {} if rows is None else rows
        self.outbox: list[OutboxRow] = [] if outbox is None else outbox
        self.audit: list[tuple[str, UUID, str, str | None]] = []
        self.failures: list[tuple[UUID, Outcome, str | None]] = []
        self.raises: list[Exception] = []
        self._lease = timedelta(seconds=lease_seconds)
        self._owner = uuid4()

    def status(self, posting: Posting) -> Status:
        return self.rows[posting.id].status

    async def take(
        self, postings: Sequence[Posting], *, now: datetime, hold: bool, lanes_held: HeldLanes
    ) -> Taken:
        self._fail()
        new = [posting for posting in postings if posting.id not in self.rows]
        known = [self.rows[posting.id] for posting in postings if posting.id in self.rows]
        facts = [fact for row in known if (fact := restated(row)) is not None]
        free = []
        blocked = {
            account
            for account in {posting.account_id for posting in new}
            if account is not None and self._is_blocked(account, lanes_held)
        }
        for posting in new:
            row = self.rows[posting.id] = Row(
                posting=posting, seq=len(self.rows), status=Status.DUE, due_at=now
            )
            if posting.account_id is None and posting.kind is Kind.PAYMENT:
                row.status, row.reason, row.suspensions = Status.SUSPENDED, ACCOUNT_MISSING, 1
                row.settled_at = now
                facts.append(restated(row))
            elif posting.account_id is None or (
                posting.kind is not Kind.PAYMENT and not self._is_posted(posting)
            ):
                row.status = Status.WAITING
            elif hold:
                row.reason = CIS_UNAVAILABLE
                facts.append(
                    PostingDeferred(
                        **about(posting), reason=CIS_UNAVAILABLE, attempts=0, deferred_at=now
                    )
                )
            elif posting.account_id in blocked:
                row.due_at = now + timedelta(seconds=1)
            else:
                self._lease_row(row, now)
                free.append(row)
        return Taken(
            attempts=[self._attempt(row, ask_first=False) for row in free],
            inserted=len(new),
            duplicates=len(postings) - len(new),
            suspended=[p for p in new if p.account_id is None and p.kind is Kind.PAYMENT],
            rows=self._announced([fact for fact in facts if fact is not None]),
        )

    async def claim_due(self, *, now: datetime, limit: int) -> Sequence[Attempt]:
        self._fail()
        claimed: list[tuple[Row, bool]] = []
        open_accounts: set[str | None] = set()
        for row in sorted(self.rows.values(), key=lambda row: row.seq):
            if row.status not in UNSETTLED or row.posting.account_id in open_accounts:
                continue
            if row.due_at > now or len(claimed) == limit:
                open_accounts.add(row.posting.account_id)
                continue
            claimed.append((row, row.status is not Status.DUE))
        for row, _ in claimed:
            self._lease_row(row, now)
        return [self._attempt(row, ask_first=asked) for row, asked in claimed]

    async def release(self, attempts: Sequence[Attempt], *, now: datetime) -> None:
        self._fail()
        for attempt in attempts:
            row = self.rows[attempt.posting.id]
            if row.status is Status.ATTEMPTING and row.owner == self._owner:
                row.status = Status.UNKNOWN if attempt.ask_first else Status.DUE
                row.owner, row.due_at = None, now

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[OutboxRow]:
        self._fail()
        facts: list[Fact] = []
        for settlement in settlements:
            row = self.rows[settlement.attempt.posting.id]
            if row.status is not Status.ATTEMPTING or row.owner != self._owner:
                continue
            answer = settlement.answer
            row.status, row.reason, row.owner = settlement.status, settlement.reason, None
            row.attempts += answer.attempted
            row.suspensions += settlement.status in SUSPENSE
            row.due_at, row.answer = settlement.due_at, answer
            if answer.attempted and settlement.status is not Status.POSTED:
                self.failures.append((row.posting.id, answer.outcome, settlement.reason))
            if settlement.status is Status.POSTED or settlement.status in SUSPENSE:
                row.settled_at = answer.posted_at or settlement.at
                facts.extend(fact for fact in [restated(row)] if fact)
            elif settlement.states_deferral:
                facts.append(
                    PostingDeferred(
                        **about(row.posting),
                        reason=settlement.reason or "",
                        attempts=settlement.attempt.attempts + 1,
                        deferred_at=settlement.at,
                    )
                )
            if settlement.status is Status.POSTED:
                self._decide_waiting(settlement.at, payments={row.posting.id})
        return self._announced(facts)

    async def wake_waiting(self, *, now: datetime, limit: int) -> int:
        self._fail()
        return self._decide_waiting(now, limit=limit)

    async def suspense(self, *, limit: int) -> Sequence[Suspended]:
        found = [row for row in self.rows.values() if row.status in SUSPENSE]
        found.sort(key=lambda row: row.settled_at or NOON)
        return [_suspended(row) for row in found[:limit]]

    async def release_suspended(
        self, *, posting_id: UUID, to_account: str | None, operator: str, note: str, now: datetime
    ) -> bool:
        row = self.rows.get(posting_id)
        account = to_account or (row.posting.account_id if row else None)
        if row is None or row.status not in SUSPENSE or account is None:
            return False
        row.posting = replace(row.posting, account_id=account)
        row.status, row.due_at, row.settled_at = Status.DUE, now, None
        self.audit.append(("release", posting_id, operator, account))
        return True

    async def return_suspended(
        self, *, posting_id: UUID, operator: str, note: str, now: datetime
    ) -> Sequence[OutboxRow] | None:
        row = self.rows.get(posting_id)
        if row is None or row.status not in SUSPENSE:
            return None
        closed = [row] + [
            each
            for each in self.rows.values()
            if each.posting.payment_id == posting_id and each.status is Status.WAITING
        ]
        for each in closed:
            each.status, each.settled_at = Status.RETURNED, now
            self.audit.append(("return", each.posting.id, operator, None))
        return self._announced([fact for each in closed if (fact := restated(each))])

    async def backlog(self, *, now: datetime) -> Sequence[tuple[str, int, float]]:
        found = []
        for status in sorted(UNSETTLED):
            ages = [
                (now - row.posting.accepted_at).total_seconds()
                for row in self.rows.values()
                if row.status is status
            ]
            found.append((str(status), len(ages), max(ages, default=0.0)))
        return found

    def _fail(self) -> None:
        if self.raises:
            raise self.raises.pop(0)

    def _is_blocked(self, account: str, lanes_held: HeldLanes) -> bool:
        in_hand = {each.posting.id for each in lanes_held.in_hand(account)}
        return any(
            row.posting.account_id == account
            and row.status in UNSETTLED
            and row.posting.id not in in_hand
            for row in self.rows.values()
        )

    def _is_posted(self, posting: Posting) -> bool:
        payment = self.rows.get(posting.payment_id)
        return (
            payment is not None
            and payment.status is Status.POSTED
            and payment.posting.account_id == posting.account_id
        )

    def _decide_waiting(
        self, now: datetime, *, payments: set[UUID] | None = None, limit: int = 10_000
    ) -> int:
        decided = 0
        for row in list(self.rows.values()):
            payment = self.rows.get(row.posting.payment_id)
            if row.status is not Status.WAITING or payment is None or decided == limit:
                continue
            if payments is not None and payment.posting.id not in payments:
                continue
            if payment.status is Status.POSTED:
                row.posting = replace(row.posting, account_id=payment.posting.account_id)
                row.status, row.due_at, row.behind = Status.DUE, now, len(self.rows) - 1
                decided += 1
            elif payment.status is Status.RETURNED:
                row.status, row.settled_at = Status.RETURNED, now
                self._announced([fact for fact in [restated(row)] if fact])
                decided += 1
        return decided

    def _lease_row(self, row: Row, now: datetime) -> None:
        row.status, row.owner, row.due_at = Status.ATTEMPTING, self._owner, now + self._lease

    def _attempt(self, row: Row, *, ask_first: bool) -> Attempt:
        return Attempt(
            posting=row.posting,
            attempts=row.attempts,
            ask_first=ask_first,
            leased_until=row.due_at,
            last_reason=row.reason,
            suspensions=row.suspensions,
        )

    def _announced(self, facts: Sequence[Fact]) -> list[OutboxRow]:
        rows = [
            OutboxRow(id=len(self.outbox) + n, record=encode(fact, stream=POSTINGS))
            for n, fact in enumerate(facts)
        ]
        self.outbox.extend(rows)
        return rows


def about(posting: Posting) -> dict[str, Any]:
    return {
        "posting_key": posting.id,
        "payment_id": posting.payment_id,
        "account_id": posting.account_id,
        "kind": str(posting.kind),
        "amount_cents": posting.amount_cents,
        "currency": posting.currency,
        "accepted_at": posting.accepted_at,
    }


def restated(row: Row) -> Fact | None:
    """The fact that a settled row states, each time it is asked."""
    posting, answer = row.posting, row.answer
    if row.status is Status.POSTED:
        assert answer is not None
        posted = {
            "effective_date": posting.effective_date,
            "posted_at": row.settled_at,
            "cis_reference": answer.cis_reference,
            "balance_after_cents": answer.balance_cents,
        }
        if posting.kind is Kind.REVERSAL:
            return PostingReversed(**about(posting), **posted, reason=posting.reason_code)
        return PostingPosted(**about(posting), **posted)
    if row.status in SUSPENSE:
        assert row.settled_at is not None
        return PostingSuspended(
            **about(posting),
            reason=row.reason or "",
            suspension=row.suspensions,
            suspended_at=row.settled_at,
        )
    if row.status is Status.RETURNED:
        assert row.settled_at is not None
        return PostingReturned(
            **about(posting), reason=row.reason or "returned", returned_at=row.settled_at
        )
    return None


def _suspended(row: Row) -> Suspended:
    posting = row.posting
    assert row.settled_at is not None
    return Suspended(
        id=posting.id,
        payment_id=posting.payment_id,
        kind=str(posting.kind),
        account_id=posting.account_id,
        amount_cents=posting.amount_cents,
        currency=posting.currency,
        status=str(row.status),
        reason=row.reason,
        processor=posting.processor,
        reference=posting.reference,
        accepted_at=posting.accepted_at,
        suspended_at=row.settled_at,
    )


@dataclass
class RecordedAnnouncements:
    """What was offered for announcement, in order."""

    rows: list[OutboxRow] = field(default_factory=list)

    def offer(self, rows: Sequence[OutboxRow]) -> None:
        self.rows.extend(rows)

    def types(self) -> list[str]:
        return [dict(row.record.headers)["ce_type"].decode() for row in self.rows]

    def ids(self) -> list[str]:
        return [dict(row.record.headers)["ce_id"].decode() for row in self.rows]


class CountedMetrics:
    """Counts what the use cases and the gateway count."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def taken(self, *, inserted: int, duplicates: int) -> None:
        self.counts["new"] += inserted
        self.counts["duplicate"] += duplicates

    def settled(self, *, kind: str, status: str) -> None:
        self.counts[f"{kind} {status}"] += 1

    def called(self, *, operation: str, outcome: str, seconds: float, size: int) -> None:
        self.counts[f"{operation} {outcome}"] += 1

    def posted_after(self, seconds: float, *, traceparent: str | None) -> None:
        self.counts["posted_after"] += 1

    def conflict(self) -> None:
        self.counts["conflict"] += 1


class Poster:
    """The use cases of cis-poster around a store and a gateway, as `app.build_app` wires them."""

    def __init__(
        self,
        *,
        postings: Postings,
        gateway: CisGateway,
        clock: Callable[[], datetime],
        monotonic: Callable[[], float],
        connections: int = 8,
        batch_size: int = 50,
        call_seconds_max: float = 5.0,
        failures_max: int = 5,
        pause_seconds: float = 0.5,
        retry_initial_seconds: float = 0.5,
        held_max: int = 4000,
        seed: int = 7,
    ) -> None:
        self.postings = postings
        self.gateway = gateway
        self.clock = clock
        self.announced = RecordedAnnouncements()
        self.metrics = CountedMetrics()
        self.breaker = Breaker(
            failures_max=failures_max,
            pause_seconds=pause_seconds,
            pause_seconds_max=5.0,
            monotonic=monotonic,
        )
        self.limit = AdaptiveLimit(minimum=1, initial=connections, maximum=connections)
        self.settler: MicroBatcher[Sequence[Settlement], None] = MicroBatcher(
            flush=self._settle, batch_size_max=256, queue_size_max=held_max
        )
        self.attempting = Attempting(
            gateway=gateway,
            settle=self.settler,
            breaker=self.breaker,
            limit=self.limit,
            backoff=Backoff(initial_seconds=retry_initial_seconds, cap_seconds=30.0),
            clock=clock,
            randomness=random.Random(seed),
            metrics=self.metrics,
            call_seconds_max=call_seconds_max,
        )
        self.lanes: Lanes[Attempt] = Lanes(
            lane_of=lambda attempt: attempt.posting.account_id,
            act=self.attempting,
            settle=self.attempting.settled,
            give_up=lambda attempts: postings.release(attempts, now=clock()),
            limit=self.limit,
            batch_size_max=batch_size,
            items_max=held_max,
            alone=lambda attempt: attempt.ask_first,
        )
        self.post_payments = PostPayments(
            postings=postings,
            lanes=self.lanes,
            breaker=self.breaker,
            announce=self.announced,
            clock=clock,
            metrics=self.metrics,
        )
        self.post_due = PostDue(postings=postings, lanes=self.lanes, breaker=self.breaker)

    async def idle(self) -> None:
        """Return when nothing is in hand; for the fakes, which never really wait."""
        quiet_rounds = 0
        while quiet_rounds < 20:
            quiet_rounds = 0 if self.lanes.held else quiet_rounds + 1
            await asyncio.sleep(0)

    async def _settle(self, waiting: Sequence[Sequence[Settlement]]) -> Sequence[None]:
        batch = [settlement for settlements in waiting for settlement in settlements]
        rows = await patiently(lambda: self.postings.settle(batch), patience_seconds=20)
        self.announced.offer(rows)
        return [None for _ in waiting]
