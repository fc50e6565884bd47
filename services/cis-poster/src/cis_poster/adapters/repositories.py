"""The postings in PostgreSQL: whole batches a statement, one transaction a method."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Row, bindparam, func, insert, select, text, update
from sqlalchemy.ext.asyncio.engine import AsyncConnection, AsyncEngine

from cis_poster.adapters.tables import audit_entries, failed_attempts, postings
from cis_poster.domain import (
    ACCOUNT_MISSING,
    CIS_UNAVAILABLE,
    UNSETTLED,
    Attempt,
    Kind,
    Posting,
    Status,
)
from cis_poster.ports import HeldLanes, Settlement, Suspended, Taken
from shared.contracts.fact import Fact
from shared.contracts.postings import (
    PostingDeferred,
    PostingPosted,
    PostingReturned,
    PostingReversed,
    PostingSuspended,
)
from shared.contracts.streams import POSTINGS
from shared.contracts.wire import OutboundRecord, encode
from shared.db.bulk import arrays, insert_rows
from shared.db.engine import one_statement, transaction
from shared.outbox.settling import Settling
from shared.outbox.table import Outbox, OutboxRow

_RECHECK = timedelta(seconds=1)
"""When a posting that stands behind one in somebody's hands is looked at again, at the latest."""
_SCAN = 500
"""How many due postings are looked at, at least, to find some that may be sent."""
_SCANS_MAX = 20
"""How often to look on when all that was looked at stands behind others."""

_POSTING_COLUMNS = (
    "id",
    "payment_id",
    "kind",
    "account_id",
    "amount_cents",
    "currency",
    "effective_date",
    "accepted_at",
    "processor",
    "reference",
    "reason_code",
    "traceparent",
)
_STATE_COLUMNS = (
    "status",
    "reason",
    "suspensions",
    "due_at",
    "lease_owner",
    "taken_at",
    "settled_at",
)
_INSERT = insert_rows(
    postings,
    (*_POSTING_COLUMNS, *_STATE_COLUMNS),
    on_conflict="(id) DO NOTHING",
    returning="id",
)
_SETTLED_COLUMNS = (
    "status",
    "reason",
    "attempts",
    "suspensions",
    "due_at",
    "cis_reference",
    "balance_after_cents",
    "settled_at",
)
_FAILURE_COLUMNS = ("posting_id", "at", "outcome", "reason", "duration_ms")
_INSERT_FAILURES = insert_rows(failed_attempts, _FAILURE_COLUMNS)

# An account is blocked for new postings by whatever of it is unsettled and not in this process's
# own lane. Looking at the last of it would not do: what has waited for its payment comes due in its
# old place, and what came after it may be in the lane. Read after the insert: a concurrent taker's
# rows are visible by then.
_BLOCKERS = text(
    """
    SELECT a.account_id, first.due_at
    FROM unnest(CAST(:accounts AS text[])) AS a(account_id)
    CROSS JOIN LATERAL (
        SELECT due_at FROM cis_poster.postings
        WHERE account_id = a.account_id AND status IN ('due', 'attempting', 'unknown')
          AND id <> ALL(:ours)
        ORDER BY seq LIMIT 1
    ) first
    """
)
_BLOCK = text(
    """
    UPDATE cis_poster.postings SET status = 'due', lease_owner = NULL, due_at = :due_at
    WHERE id = ANY(:ids)
    """
)
_HOLD = text(
    """
    UPDATE cis_poster.postings SET status = 'waiting', lease_owner = NULL
    WHERE id = ANY(:ids)
    """
)
# What stands behind a posting that is not due comes due with it: looked at more often, a long
# queue behind one account's trouble would be all that is ever looked at.
# What stands behind a blocker is told by a window: sessions do without hash joins, and a join of
# the two by loops took 150 of the 200 ms for a batch of 500 after an outage.
_CLAIM = text(
    """
    WITH looked_at AS MATERIALIZED (
        SELECT id, account_id, seq, status FROM cis_poster.postings
        WHERE status IN ('due', 'attempting', 'unknown') AND due_at <= :now
        ORDER BY due_at, seq LIMIT :scan
        FOR UPDATE SKIP LOCKED
    ), blockers AS MATERIALIZED (
        SELECT a.account_id, b.seq, b.due_at
        FROM (SELECT DISTINCT account_id FROM looked_at) a
        CROSS JOIN LATERAL (
            SELECT e.seq, CASE WHEN e.status = 'attempting' THEN least(e.due_at, :recheck_at)
                               ELSE e.due_at END AS due_at
            FROM cis_poster.postings e
            WHERE e.account_id = a.account_id AND e.status IN ('due', 'attempting', 'unknown')
              AND e.id NOT IN (SELECT id FROM looked_at)
            ORDER BY e.seq LIMIT 1
        ) b
    ), decided AS MATERIALIZED (
        SELECT * FROM (
            SELECT id, seq, status AS was,
                   max(due_at) OVER (PARTITION BY account_id ORDER BY seq) AS blocked_until
            FROM (
                SELECT id, account_id, seq, status, CAST(NULL AS timestamptz) AS due_at
                FROM looked_at
                UNION ALL
                SELECT NULL, account_id, seq, NULL, due_at FROM blockers
            ) both_kinds
        ) in_order
        WHERE id IS NOT NULL
    ), chosen AS MATERIALIZED (
        SELECT id FROM decided WHERE blocked_until IS NULL ORDER BY seq LIMIT :limit
    )
    UPDATE cis_poster.postings p SET
        status = CASE WHEN d.blocked_until IS NULL THEN 'attempting' ELSE p.status END,
        lease_owner = CASE WHEN d.blocked_until IS NULL THEN :owner ELSE p.lease_owner END,
        due_at = CASE WHEN d.blocked_until IS NULL THEN :leased_until
                      ELSE greatest(d.blocked_until, p.due_at) END
    FROM decided d
    WHERE p.id = d.id AND (d.blocked_until IS NOT NULL OR d.id IN (SELECT id FROM chosen))
    RETURNING p.*, d.was, d.blocked_until IS NOT NULL AS blocked
    """
)
_RELEASE = text(
    """
    UPDATE cis_poster.postings SET
        status = CASE WHEN id = ANY(:unknown) THEN 'unknown' ELSE 'due' END,
        lease_owner = NULL, due_at = :now
    WHERE id = ANY(:ids) AND status = 'attempting' AND lease_owner = :owner
    """
)
# A statement of its own after the settlement: it must see what the settlement has waited for.
_WAKE_PAID = text(
    """
    UPDATE cis_poster.postings w
    SET status = 'due', due_at = :now, account_id = p.account_id
    FROM cis_poster.postings p
    WHERE p.id = w.payment_id AND p.status = 'posted' AND w.status = 'waiting'
      AND w.payment_id = ANY(:payments)
    """
)
_WAKE_DECIDED = text(
    """
    UPDATE cis_poster.postings w SET
        status = d.becomes, due_at = :now, account_id = d.account_id,
        settled_at = CASE WHEN d.becomes = 'returned' THEN CAST(:now AS timestamptz) END
    FROM (
        SELECT e.id, coalesce(p.account_id, e.account_id) AS account_id,
               CASE p.status WHEN 'posted' THEN 'due' ELSE 'returned' END AS becomes
        FROM cis_poster.postings e
        JOIN cis_poster.postings p ON p.id = e.payment_id
        WHERE e.status = 'waiting' AND p.status IN ('posted', 'returned')
        ORDER BY e.seq LIMIT :limit
    ) d
    WHERE w.id = d.id AND w.status = 'waiting'
    RETURNING w.*
    """
)
_BACKLOG = text(
    """
    SELECT s.status, count(p.id), coalesce(extract(epoch FROM :now - min(p.accepted_at)), 0)
    FROM unnest(CAST(:statuses AS text[])) AS s(status)
    LEFT JOIN LATERAL (
        SELECT id, accepted_at FROM cis_poster.postings
        WHERE postings.status = s.status
          AND postings.status IN ('due', 'attempting', 'unknown') LIMIT 10000
    ) p ON true
    GROUP BY s.status
    """
)


class SqlPostings:
    """See `cis_poster.ports.Postings`."""

    def __init__(
        self, *, engine: AsyncEngine, outbox: Outbox, owner: UUID, lease_seconds: float
    ) -> None:
        self._engine = engine
        self._outbox = outbox
        self._settling = Settling(
            outbox=outbox,
            table=postings,
            columns=_SETTLED_COLUMNS,
            also_set="lease_owner = NULL",
            where="t.status = 'attempting' AND t.lease_owner = :owner",
        )
        self._owner = owner
        self._lease = timedelta(seconds=lease_seconds)

    async def take(
        self, batch: Sequence[Posting], *, now: datetime, hold: bool, lanes_held: HeldLanes
    ) -> Taken:
        async with transaction(self._engine) as connection:
            inserted = await self._insert(connection, batch, now=now, hold=hold)
            new = [posting for posting in batch if posting.id in inserted]
            free = [posting for posting in new if posting.account_id]
            free = await self._without_orphans(connection, free)
            held_back = free if hold else []
            free = [] if hold else free
            free = await self._without_blocked(connection, free, inserted, now, lanes_held)
            nameless = [p for p in new if p.account_id is None and p.kind is Kind.PAYMENT]
            facts = [_account_missing(posting, now) for posting in nameless]
            facts += [(_held_back(posting, now), posting) for posting in held_back]
            known = [posting.id for posting in batch if posting.id not in inserted]
            records = _records(
                [(fact, posting.traceparent) for fact, posting in facts]
            ) + await self._restated(connection, known)
            rows = await self._outbox.append(connection, records)
        leased_until = now + self._lease
        return Taken(
            attempts=[
                Attempt(posting=posting, attempts=0, ask_first=False, leased_until=leased_until)
                for posting in free
            ],
            inserted=len(new),
            duplicates=len(batch) - len(new),
            suspended=nameless,
            rows=rows,
        )

    async def claim_due(self, *, now: datetime, limit: int) -> Sequence[Attempt]:
        leased_until = now + self._lease
        parameters = {
            "now": now,
            "limit": limit,
            "scan": max(limit, _SCAN),
            "owner": self._owner,
            "leased_until": leased_until,
            "recheck_at": now + _RECHECK,
        }
        for _ in range(_SCANS_MAX):
            async with transaction(self._engine, plans_anew=True) as connection:
                rows = (await connection.execute(_CLAIM, parameters)).all()
            claimed = sorted((row for row in rows if not row.blocked), key=lambda row: row.seq)
            if claimed or not rows:
                break
        return [
            Attempt(
                posting=_posting(row),
                attempts=row.attempts,
                # Due was never sent, or is known not to have taken effect; all else is a question.
                ask_first=row.was != Status.DUE,
                leased_until=leased_until,
                last_reason=row.reason,
                suspensions=row.suspensions,
            )
            for row in claimed
        ]

    async def release(self, attempts: Sequence[Attempt], *, now: datetime) -> None:
        async with one_statement(self._engine) as connection:
            await connection.execute(
                _RELEASE,
                {
                    "ids": [attempt.posting.id for attempt in attempts],
                    "unknown": [a.posting.id for a in attempts if a.ask_first],
                    "owner": self._owner,
                    "now": now,
                },
            )

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[OutboxRow]:
        async with transaction(self._engine) as connection:
            ours, rows = await self._settling.run(
                connection,
                [(_settled_row(each), _record_of(each)) for each in settlements],
                owner=self._owner,
            )
            settled = [each for each in settlements if each.attempt.posting.id in ours]
            failures = [_failure(each) for each in settled if _is_failure(each)]
            if failures:
                await connection.execute(_INSERT_FAILURES, arrays(failures, _FAILURE_COLUMNS))
            paid = [
                each.attempt.posting.id
                for each in settled
                if each.status is Status.POSTED and each.attempt.posting.kind is Kind.PAYMENT
            ]
            if paid:
                await connection.execute(_WAKE_PAID, {"payments": paid, "now": settlements[0].at})
        return rows

    async def wake_waiting(self, *, now: datetime, limit: int) -> int:
        async with transaction(self._engine) as connection:
            result = await connection.execute(_WAKE_DECIDED, {"now": now, "limit": limit})
            decided = result.all()
            # Nobody waits for these: the sweep announces them.
            facts: list[tuple[Fact, str | None]] = [
                (_returned(row), row.traceparent) for row in decided if row.status == "returned"
            ]
            await self._outbox.append(connection, _records(facts))
            return len(decided)

    async def suspense(self, *, limit: int) -> Sequence[Suspended]:
        statement = (
            select(postings)
            .where(postings.c.status.in_([Status.SUSPENDED, Status.CONFLICTED]))
            .order_by(postings.c.settled_at, postings.c.seq)
            .limit(limit)
        )
        async with one_statement(self._engine) as connection:
            return [
                Suspended(
                    id=row.id,
                    payment_id=row.payment_id,
                    kind=row.kind,
                    account_id=row.account_id,
                    amount_cents=row.amount_cents,
                    currency=row.currency,
                    status=row.status,
                    reason=row.reason,
                    processor=row.processor,
                    reference=row.reference,
                    accepted_at=row.accepted_at,
                    suspended_at=row.settled_at,
                )
                for row in await connection.execute(statement)
            ]

    async def release_suspended(
        self, *, posting_id: UUID, to_account: str | None, operator: str, note: str, now: datetime
    ) -> bool:
        async with transaction(self._engine) as connection:
            row = await _locked_suspended(connection, posting_id)
            account = to_account or (row.account_id if row else None)
            if row is None or account is None:
                return False
            await connection.execute(
                update(postings)
                .where(postings.c.id == posting_id)
                .values(status=Status.DUE, account_id=account, due_at=now, settled_at=None)
            )
            await _audit(connection, row, "release", account, operator, note, now)
            return True

    async def return_suspended(
        self, *, posting_id: UUID, operator: str, note: str, now: datetime
    ) -> Sequence[OutboxRow] | None:
        async with transaction(self._engine) as connection:
            row = await _locked_suspended(connection, posting_id)
            if row is None:
                return None
            # A reversal that waits for a returned payment has nothing to reverse any more.
            waits_for_it = (postings.c.payment_id == posting_id) & (
                postings.c.status == Status.WAITING
            )
            result = await connection.execute(
                update(postings)
                .where((postings.c.id == posting_id) | waits_for_it)
                .values(status=Status.RETURNED, settled_at=now)
                .returning(postings)
            )
            closed = result.all()
            for each in closed:
                await _audit(connection, each, "return", None, operator, note, now)
            facts: list[tuple[Fact, str | None]] = [
                (_returned(each), each.traceparent) for each in closed
            ]
            return await self._outbox.append(connection, _records(facts))

    async def backlog(self, *, now: datetime) -> Sequence[tuple[str, int, float]]:
        statuses = sorted(str(status) for status in UNSETTLED)
        async with one_statement(self._engine) as connection:
            result = await connection.execute(_BACKLOG, {"statuses": statuses, "now": now})
            return [(row[0], int(row[1]), float(row[2])) for row in result]

    async def _insert(
        self, connection: AsyncConnection, batch: Sequence[Posting], *, now: datetime, hold: bool
    ) -> set[UUID]:
        rows = [self._new_row(posting, now=now, hold=hold) for posting in batch]
        result = await connection.execute(
            _INSERT, arrays(rows, (*_POSTING_COLUMNS, *_STATE_COLUMNS))
        )
        return set(result.scalars())

    def _new_row(self, posting: Posting, *, now: datetime, hold: bool) -> Mapping[str, Any]:
        row: dict[str, Any] = {name: getattr(posting, name) for name in _POSTING_COLUMNS}
        row |= {"reason": None, "suspensions": 0, "taken_at": now, "settled_at": None}
        if posting.account_id is None and posting.kind is not Kind.PAYMENT:
            # It follows its payment to whichever account that is released to.
            return row | {"status": Status.WAITING, "due_at": now, "lease_owner": None}
        if posting.account_id is None:
            return row | {
                "status": Status.SUSPENDED,
                "reason": ACCOUNT_MISSING,
                "suspensions": 1,
                "due_at": now,
                "lease_owner": None,
                "settled_at": now,
            }
        if hold:
            # The reason is stated now, so that a first failed try does not state it again.
            row["reason"] = CIS_UNAVAILABLE
            return row | {"status": Status.DUE, "due_at": now, "lease_owner": None}
        return row | {
            "status": Status.ATTEMPTING,
            "due_at": now + self._lease,
            "lease_owner": self._owner,
        }

    async def _without_blocked(
        self,
        connection: AsyncConnection,
        free: list[Posting],
        inserted: set[UUID],
        now: datetime,
        lanes_held: HeldLanes,
    ) -> list[Posting]:
        if not free:
            return free
        accounts = {posting.account_id for posting in free if posting.account_id}
        # Asked before the database: what leaves a lane from now on is settled, or stops it.
        in_hand = {each.posting.id for lane in accounts for each in lanes_held.in_hand(lane)}
        blockers = await connection.execute(
            _BLOCKERS, {"accounts": list(accounts), "ours": list(inserted | in_hand)}
        )
        blocked = {row.account_id: row.due_at for row in blockers}
        held = [posting for posting in free if posting.account_id in blocked]
        if held:
            due_at = min(*blocked.values(), now + _RECHECK)
            await connection.execute(
                _BLOCK, {"ids": [posting.id for posting in held], "due_at": max(due_at, now)}
            )
        return [posting for posting in free if posting.account_id not in blocked]

    async def _without_orphans(
        self, connection: AsyncConnection, free: list[Posting]
    ) -> list[Posting]:
        """Hold back reversals whose payment is not on the ledger: it may yet be refused."""
        reversals = [posting for posting in free if posting.kind is not Kind.PAYMENT]
        if not reversals:
            return free
        # Locked, so that a payment which is just being settled is waited for: its settlement wakes
        # what it sees waiting, and would not see what this transaction holds back.
        found = await connection.execute(
            select(postings.c.id, postings.c.account_id, postings.c.status)
            .where(postings.c.id == func.any(bindparam("payments")))
            .order_by(postings.c.id)
            .with_for_update(read=True),
            {"payments": [posting.payment_id for posting in reversals]},
        )
        ledger = {row.id: row.account_id for row in found if row.status == Status.POSTED}
        # One that was released to another account is reversed there: the wake gives it the account.
        orphans = {
            posting.id
            for posting in reversals
            if ledger.get(posting.payment_id) != posting.account_id
        }
        if orphans:
            await connection.execute(_HOLD, {"ids": list(orphans)})
        return [posting for posting in free if posting.id not in orphans]

    async def _restated(
        self, connection: AsyncConnection, ids: Sequence[UUID]
    ) -> list[OutboundRecord]:
        """Return again the facts of what is settled: an owner that asks has not heard them."""
        if not ids:
            return []
        result = await connection.execute(
            select(postings).where(postings.c.id == func.any(bindparam("ids"))),
            {"ids": list(ids)},
        )
        facts = [(fact, row.traceparent) for row in result if (fact := _restate(row)) is not None]
        return _records(facts)


def _records(facts: Sequence[tuple[Fact, str | None]]) -> list[OutboundRecord]:
    return [_record(fact, traceparent) for fact, traceparent in facts]


def _record(fact: Fact, traceparent: str | None) -> OutboundRecord:
    return encode(fact, stream=POSTINGS, traceparent=traceparent)


def _posting(row: Row[Any]) -> Posting:
    values = {name: getattr(row, name) for name in _POSTING_COLUMNS}
    return Posting(**values | {"kind": Kind(row.kind)})


def _settled_row(settlement: Settlement) -> Mapping[str, Any]:
    attempt, answer = settlement.attempt, settlement.answer
    settled = settlement.status not in UNSETTLED and settlement.status is not Status.WAITING
    return {
        "id": attempt.posting.id,
        "status": settlement.status,
        "reason": settlement.reason,
        "attempts": attempt.attempts + (1 if answer.attempted else 0),
        "suspensions": attempt.suspensions + (1 if _is_suspended(settlement.status) else 0),
        "due_at": settlement.due_at,
        "cis_reference": answer.cis_reference,
        "balance_after_cents": answer.balance_cents,
        "settled_at": (answer.posted_at or settlement.at) if settled else None,
    }


def _is_suspended(status: Status) -> bool:
    return status in (Status.SUSPENDED, Status.CONFLICTED)


def _is_failure(settlement: Settlement) -> bool:
    return settlement.answer.attempted and settlement.status is not Status.POSTED


def _failure(settlement: Settlement) -> Mapping[str, Any]:
    return {
        "posting_id": settlement.attempt.posting.id,
        "at": settlement.at,
        "outcome": settlement.answer.outcome,
        "reason": settlement.reason,
        "duration_ms": settlement.duration_ms,
    }


def _about(posting: Posting | Row[Any]) -> dict[str, Any]:
    """Return what every posting fact says of its posting."""
    return {
        "posting_key": posting.id,
        "payment_id": posting.payment_id,
        "account_id": posting.account_id,
        "kind": str(posting.kind),
        "amount_cents": posting.amount_cents,
        "currency": posting.currency,
        "accepted_at": posting.accepted_at,
    }


def _fact_of(settlement: Settlement) -> Fact | None:
    """Return the fact that states an outcome, where one is due."""
    posting, answer = settlement.attempt.posting, settlement.answer
    about = _about(posting)
    if settlement.status is Status.POSTED:
        return _on_ledger(
            about,
            effective_date=posting.effective_date,
            posted_at=answer.posted_at or settlement.at,
            cis_reference=answer.cis_reference,
            balance_after_cents=answer.balance_cents,
            reason=posting.reason_code,
        )
    if _is_suspended(settlement.status):
        return PostingSuspended(
            **about,
            reason=settlement.reason,
            suspension=settlement.attempt.suspensions + 1,
            suspended_at=settlement.at,
        )
    if settlement.states_deferral:
        return PostingDeferred(
            **about,
            reason=settlement.reason,
            attempts=settlement.attempt.attempts + 1,
            deferred_at=settlement.at,
        )
    return None


def _record_of(settlement: Settlement) -> OutboundRecord | None:
    fact = _fact_of(settlement)
    return None if fact is None else _record(fact, settlement.attempt.posting.traceparent)


def _restate(row: Row[Any]) -> Fact | None:
    """Return the fact that states what has become of a settled posting, from its row."""
    match Status(row.status):
        case Status.POSTED:
            return _on_ledger(
                _about(row),
                effective_date=row.effective_date,
                posted_at=row.settled_at,
                cis_reference=row.cis_reference,
                balance_after_cents=row.balance_after_cents,
                reason=row.reason_code,
            )
        case Status.SUSPENDED | Status.CONFLICTED:
            return PostingSuspended(
                **_about(row),
                reason=row.reason,
                suspension=row.suspensions,
                suspended_at=row.settled_at,
            )
        case Status.RETURNED:
            return _returned(row)
        case _:
            return None


def _on_ledger(about: Mapping[str, Any], *, reason: str | None, **posted: Any) -> Fact:
    if about["kind"] == Kind.REVERSAL:
        return PostingReversed(**about, **posted, reason=reason)
    return PostingPosted(**about, **posted)


def _returned(row: Row[Any]) -> Fact:
    return PostingReturned(
        **_about(row), returned_at=row.settled_at, reason=row.reason or "returned"
    )


def _held_back(posting: Posting, now: datetime) -> Fact:
    return PostingDeferred(**_about(posting), reason=CIS_UNAVAILABLE, attempts=0, deferred_at=now)


def _account_missing(posting: Posting, now: datetime) -> tuple[Fact, Posting]:
    fact = PostingSuspended(
        **_about(posting), reason=ACCOUNT_MISSING, suspension=1, suspended_at=now
    )
    return fact, posting


async def _locked_suspended(connection: AsyncConnection, posting_id: UUID) -> Row[Any] | None:
    result = await connection.execute(
        select(postings)
        .where(
            postings.c.id == posting_id,
            postings.c.status.in_([Status.SUSPENDED, Status.CONFLICTED]),
        )
        .with_for_update()
    )
    return result.one_or_none()


async def _audit(
    connection: AsyncConnection,
    row: Row[Any],
    action: str,
    to_account: str | None,
    operator: str,
    note: str,
    now: datetime,
) -> None:
    await connection.execute(
        insert(audit_entries).values(
            at=now,
            operator=operator,
            action=action,
            posting_id=row.id,
            from_account=row.account_id,
            to_account=to_account,
            note=note,
        )
    )
