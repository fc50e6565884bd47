"""What autopay-scheduler keeps, in PostgreSQL: whole batches a statement, a transaction a unit."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from sqlalchemy import Row, TextClause, insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio.engine import AsyncConnection

from autopay_scheduler.adapters import statements
from autopay_scheduler.adapters.reenrolment_repository import mark_enrolled
from autopay_scheduler.adapters.rows import (
    ANNOUNCEMENT_COLUMNS,
    ENROLMENT_COLUMNS,
    EVIDENCE_COLUMNS,
    NEW_CHARGE_COLUMNS,
    announcement,
    announcement_row,
    charge_arrays,
    charge_record,
    enrolment_of,
    enrolment_record,
    enrolment_row,
    evidence,
    evidence_row,
    new_charge_values,
    pause,
)
from autopay_scheduler.adapters.tables import audit_entries
from autopay_scheduler.domain.amounts import Owed
from autopay_scheduler.domain.bills import Bill, BillCancellation, BillStatus, LedgerEntry
from autopay_scheduler.domain.charges import Status
from autopay_scheduler.domain.enrolments import EnrolmentRecord
from autopay_scheduler.domain.notices import Announcement, NoticeStatus
from autopay_scheduler.domain.planning import BillState, ChargeRecord, Situation
from autopay_scheduler.domain.reenrolment import OldDraft, has_old_draft
from autopay_scheduler.domain.words import Word
from autopay_scheduler.ports.store import (
    AuditEntry,
    ConcurrentWordError,
    DueCharge,
    Evidence,
    Failure,
    NewAnnouncement,
    Noticed,
    StaleAnnouncement,
    Unbilled,
)
from shared.contracts.wire import OutboundRecord
from shared.db.bulk import arrays
from shared.db.engine import driver_session
from shared.outbox.table import Outbox, OutboxRow

PLANNED_BACK_DAYS = 60
"""Bills due longer ago are not planned any more: no outage lasts so long, and the CIS carries
what is left over into the next bill."""

UNDELIVERED = frozenset({NoticeStatus.FAILED, NoticeStatus.SKIPPED})
UNDER_WAY = frozenset({Status.REQUESTED, Status.PENDING})
UNIQUE_VIOLATION = "23505"
"""Of `enrolments_on`, which keeps a second enrolment of an account from being turned on."""


class SqlUnitOfWork:
    """See `autopay_scheduler.ports.store.UnitOfWork`."""

    def __init__(
        self,
        *,
        connection: AsyncConnection,
        outbox: Outbox,
        zone: ZoneInfo,
        late_grace_days: int,
    ) -> None:
        self._connection = connection
        self._outbox = outbox
        self._zone = zone
        self._late_grace_days = late_grace_days
        self.rows: list[OutboxRow] = []

    # What is owed

    async def keep_bills(self, bills: Sequence[Bill], *, now: datetime) -> int:
        # One statement changes a row once: of several issues of a bill the highest counts.
        latest = _last_of_each(
            bills,
            key=lambda bill: (bill.account_id, bill.bill_reference),
            order=lambda bill: bill.version,
        )
        await self._keep_balances(
            [
                (
                    bill.account_id,
                    # A bill says all that is due: where the CIS names no balance, this is it.
                    bill.amount_cents if bill.balance_cents is None else bill.balance_cents,
                    bill.stated_at,
                )
                # Of two issues of one moment the later one counts.
                for bill in sorted(bills, key=lambda bill: bill.version)
            ],
            now=now,
        )
        result = await self._connection.execute(
            statements.KEEP_BILLS,
            {
                "accounts": [bill.account_id for bill in latest],
                "references": [bill.bill_reference for bill in latest],
                "versions": [bill.version for bill in latest],
                "amounts": [bill.amount_cents for bill in latest],
                "currencies": [bill.currency for bill in latest],
                "dues": [bill.due_date for bill in latest],
                "ats": [bill.stated_at for bill in latest],
                "statuses": [BillStatus.OPEN for _ in latest],
            },
        )
        kept = result.scalars().all()
        await self.plan_accounts(sorted(set(kept)), at=now)
        return len(kept)

    async def cancel_bills(self, bills: Sequence[BillCancellation], *, now: datetime) -> int:
        latest = _last_of_each(
            bills,
            key=lambda bill: (bill.account_id, bill.bill_reference),
            order=lambda bill: bill.version,
        )
        await self._keep_balances(
            # Where the CIS names no balance, what the cancelled bill said is not known any more.
            [(bill.account_id, bill.balance_cents, bill.stated_at) for bill in bills],
            now=now,
        )
        result = await self._connection.execute(
            statements.CANCEL_BILLS,
            {
                "accounts": [bill.account_id for bill in latest],
                "references": [bill.bill_reference for bill in latest],
                "versions": [bill.version for bill in latest],
                "ats": [bill.stated_at for bill in latest],
            },
        )
        kept = result.scalars().all()
        await self.plan_accounts(sorted(set(kept)), at=now)
        return len(kept)

    async def _keep_balances(
        self, stated: Sequence[tuple[str, int | None, datetime]], *, now: datetime
    ) -> None:
        latest = _last_of_each(stated, key=lambda each: each[0], order=lambda each: each[2])
        if latest:
            await self._connection.execute(
                statements.KEEP_BALANCES,
                {
                    "accounts": [account_id for account_id, _, _ in latest],
                    "balances": [balance_cents for _, balance_cents, _ in latest],
                    "ats": [at for _, _, at in latest],
                    "now": now,
                },
            )

    async def keep_postings(self, entries: Sequence[LedgerEntry], *, now: datetime) -> int:
        wanted = {entry.posting_key: entry for entry in entries}
        result = await self._connection.execute(
            statements.KEEP_POSTINGS,
            {
                "keys": list(wanted),
                "payments": [entry.payment_id for entry in wanted.values()],
                "accounts": [entry.account_id for entry in wanted.values()],
                "amounts": [entry.signed_cents for entry in wanted.values()],
                "ats": [entry.posted_at for entry in wanted.values()],
            },
        )
        fresh = [wanted[key] for key in result.scalars()]
        if not fresh:
            return 0
        latest = _last_of_each(
            fresh, key=lambda entry: entry.account_id, order=lambda entry: entry.posted_at
        )
        paid: dict[str, int] = {}
        for entry in fresh:
            paid[entry.account_id] = paid.get(entry.account_id, 0) + entry.signed_cents
        await self._connection.execute(
            statements.ADD_PAID,
            {
                "accounts": [entry.account_id for entry in latest],
                "paid": [paid[entry.account_id] for entry in latest],
                "balances": [entry.balance_after_cents for entry in latest],
                "ats": [entry.posted_at for entry in latest],
                "now": now,
            },
        )
        accounts = [entry.account_id for entry in fresh]
        ats = [entry.posted_at for entry in fresh]
        await self._connection.execute(
            statements.PAID_BEFORE,
            {
                "accounts": accounts,
                "amounts": [entry.signed_cents for entry in fresh],
                "ats": ats,
            },
        )
        await self._connection.execute(
            statements.PLAN_ENROLLED, {"accounts": sorted(set(accounts)), "at": now}
        )
        await self._connection.execute(
            statements.CHARGES_POSTED,
            {"payments": [entry.payment_id for entry in fresh], "ats": ats},
        )
        return len(fresh)

    async def know_accounts(self, account_ids: Sequence[str], *, now: datetime) -> None:
        await self._connection.execute(
            statements.KNOW_ACCOUNTS, {"accounts": list(account_ids), "now": now}
        )

    # Enrolments

    async def lock_accounts(self, account_ids: Sequence[str]) -> set[str]:
        result = await self._connection.execute(
            statements.LOCK_ACCOUNTS, {"accounts": list(account_ids)}
        )
        return set(result.scalars())

    async def keep_evidence(self, words: Sequence[Evidence], *, now: datetime) -> Sequence[bool]:
        rows = [evidence_row(word, now=now) for word in words]
        result = await self._connection.execute(
            statements.KEEP_EVIDENCE, arrays(rows, EVIDENCE_COLUMNS)
        )
        fresh = {(row.event_source, row.event_id, row.type) for row in result}
        are_new = []
        for word in words:
            key = (word.event_source, word.event_id, word.type)
            # The same word twice in one batch: the first of them is the new one.
            are_new.append(key in fresh)
            fresh.discard(key)
        return are_new

    async def pauses_of(
        self, enrolment_ids: Sequence[UUID], *, accounts: Sequence[str]
    ) -> Sequence[Word]:
        result = await self._connection.execute(
            statements.PAUSES_OF, {"ids": list(enrolment_ids), "accounts": list(accounts)}
        )
        return [pause(evidence(row)) for row in result]

    async def lock_enrolments(
        self, *, ids: Sequence[UUID], account_ids: Sequence[str]
    ) -> Sequence[EnrolmentRecord]:
        result = await self._connection.execute(
            statements.LOCK_ENROLMENTS, {"ids": list(ids), "accounts": list(account_ids)}
        )
        return [enrolment_record(row) for row in result]

    async def enrolments_by_method(
        self, *, processor: str, token: str
    ) -> Sequence[EnrolmentRecord]:
        result = await self._connection.execute(
            statements.ENROLMENTS_BY_METHOD, {"processor": processor, "token": token}
        )
        return [enrolment_record(row) for row in result]

    async def save_enrolments(self, records: Sequence[EnrolmentRecord]) -> None:
        rows = sorted(map(enrolment_row, records), key=lambda row: str(row["id"]))
        try:
            await self._connection.execute(
                statements.SAVE_ENROLMENTS, arrays(rows, ENROLMENT_COLUMNS)
            )
        except IntegrityError as error:
            if getattr(error.orig, "sqlstate", None) != UNIQUE_VIOLATION:
                # A row that breaks a rule of the table breaks it for ever: a defect, not a race.
                raise
            raise ConcurrentWordError("autopay was turned on by somebody else") from error

    async def mark_reenrolled(self, account_ids: Sequence[str], *, at: datetime) -> None:
        if account_ids:
            await mark_enrolled(self._connection, account_ids=account_ids, at=at, zone=self._zone)

    # Charges

    async def plan_accounts(self, account_ids: Sequence[str], *, at: datetime) -> None:
        if account_ids:
            await self._connection.execute(
                statements.PLAN_ACCOUNTS, {"accounts": list(account_ids), "at": at}
            )

    async def plan_charged(self, ids: Sequence[UUID], *, at: datetime) -> None:
        await self._connection.execute(statements.PLAN_CHARGED, {"ids": list(ids), "at": at})

    async def claim_plans(
        self, *, now: datetime, today: date, limit: int
    ) -> tuple[int, Sequence[Situation]]:
        claimed = await self._connection.execute(
            statements.CLAIM_PLANS, {"now": now, "limit": limit}
        )
        accounts = sorted(claimed.scalars())
        if not accounts:
            return 0, []
        horizon = today - timedelta(days=PLANNED_BACK_DAYS)
        session = await driver_session(self._connection)
        found: dict[str, list[Sequence[Any]]] = {}
        for values in await session.fetch(statements.SITUATIONS, accounts, horizon):
            found.setdefault(values[1], []).append(values)
        if not found:
            return len(accounts), []
        held: dict[str, list[Row[Any]]] = {}
        asked = {"accounts": sorted(found), "horizon": horizon}
        for row in await self._connection.execute(statements.OPEN_OF_ACCOUNTS, asked):
            held.setdefault(row.account_id, []).append(row)
        drafts = await self._drafts(sorted(found))
        return len(accounts), [
            _situation(rows, held.get(account_id, []), drafts.get(account_id, ()), self)
            for account_id, rows in found.items()
        ]

    def day_of(self, instant: datetime) -> date:
        """Return the city's day of an instant."""
        return instant.astimezone(self._zone).date()

    @property
    def late_grace_days(self) -> int:
        """How long after its day a charge, or an old portal's draft, may come."""
        return self._late_grace_days

    async def _drafts(self, account_ids: Sequence[str]) -> Mapping[str, Sequence[OldDraft]]:
        drafts: dict[str, list[OldDraft]] = {}
        for row in await self._connection.execute(
            statements.OLD_DRAFTS, {"accounts": list(account_ids)}
        ):
            drafts.setdefault(row.account_id, []).append(
                OldDraft(draft_date=row.draft_date, due_date=row.due_date)
            )
        return drafts

    async def claim_planned(self, *, now: datetime, limit: int) -> Sequence[DueCharge]:
        return await self._claim(statements.CLAIM_PLANNED, now=now, limit=limit)

    async def claim_due(self, *, now: datetime, limit: int) -> Sequence[DueCharge]:
        await self._connection.execute(statements.HOLD_SWITCH)
        return await self._claim(statements.CLAIM_DUE, now=now, limit=limit)

    async def claim_held(self, *, now: datetime, limit: int) -> Sequence[DueCharge]:
        return await self._claim(statements.CLAIM_HELD, now=now, limit=limit)

    async def _claim(
        self, statement: TextClause, *, now: datetime, limit: int
    ) -> Sequence[DueCharge]:
        result = await self._connection.execute(statement, {"now": now, "limit": limit})
        return await due_charges(
            self._connection,
            result.all(),
            zone=self._zone,
            late_grace_days=self._late_grace_days,
        )

    async def claim_unheard(
        self, *, now: datetime, limit: int, first_seconds: float, cap_seconds: float
    ) -> Sequence[tuple[ChargeRecord, EnrolmentRecord]]:
        await self._connection.execute(statements.HOLD_SWITCH)
        result = await self._connection.execute(
            statements.CLAIM_UNHEARD,
            {"now": now, "limit": limit, "first": first_seconds, "cap": cap_seconds},
        )
        return [(charge_record(row, "c_"), enrolment_record(row, "e_")) for row in result]

    async def claim_unnoticed(
        self, *, now: datetime, limit: int, first_seconds: float, cap_seconds: float
    ) -> Sequence[StaleAnnouncement]:
        result = await self._connection.execute(
            statements.CLAIM_UNNOTICED,
            {"now": now, "limit": limit, "first": first_seconds, "cap": cap_seconds},
        )
        return [
            StaleAnnouncement(
                record=charge_record(row, "c_"),
                enrolment=enrolment_record(row, "e_"),
                announcement=announcement(row, zone=self._zone),
                announced_at=row.announced_at,
            )
            for row in result
        ]

    async def lock_charges(
        self, ids: Sequence[UUID]
    ) -> Sequence[tuple[ChargeRecord, EnrolmentRecord]]:
        asked = {"ids": list(ids)}
        found = await self._connection.execute(statements.LOCK_ENROLMENTS_OF, asked)
        enrolments = {row.id: enrolment_record(row) for row in found}
        locked = await self._connection.execute(statements.LOCK_CHARGES, asked)
        return [(charge_record(row), enrolments[row.enrolment_id]) for row in locked]

    async def open_charges_of(
        self, enrolment_ids: Sequence[UUID], *, paid_since: datetime
    ) -> Sequence[ChargeRecord]:
        result = await self._connection.execute(
            statements.OPEN_OF_ENROLMENTS,
            {"ids": list(enrolment_ids), "paid_since": paid_since},
        )
        return [charge_record(row) for row in result]

    async def add_charges(self, records: Sequence[ChargeRecord], *, now: datetime) -> None:
        if records:
            session = await driver_session(self._connection)
            # A new charge cannot be there already: its account was taken off the queue, and all
            # of its charges were locked, by this transaction. If it were, nothing is written.
            await session.copy_records_to_table(
                "charges",
                schema_name="autopay_scheduler",
                columns=(*NEW_CHARGE_COLUMNS, "created_at"),
                records=new_charge_values(records, now=now),
            )

    async def save_charges(self, records: Sequence[ChargeRecord]) -> None:
        if not records:
            return
        await self._connection.execute(statements.SAVE_CHARGES, charge_arrays(records))
        declined = [record for record in records if record.declines]
        if declined:
            await self._connection.execute(
                statements.ADD_DECLINES,
                {
                    "ids": [record.id for record in declined],
                    # Processors' ids hold no spaces: an array of arrays would need one length.
                    "declines": [" ".join(record.declines) for record in declined],
                },
            )
        held = [record.id for record in records if record.status is Status.HELD]
        if held:
            await self._connection.execute(statements.VOID_ANNOUNCEMENTS, {"ids": held})

    async def note_posted(self, payment_ids: Sequence[UUID]) -> None:
        if payment_ids:
            await self._connection.execute(statements.NOTE_POSTED, {"payments": list(payment_ids)})

    async def keep_failures(self, failures: Sequence[Failure]) -> None:
        if failures:
            columns = ("charge_id", "decline", "document", "at")
            rows = [{name: getattr(each, name) for name in columns} for each in failures]
            await self._connection.execute(statements.KEEP_FAILURES, arrays(rows, columns))

    async def failures(self, declines: Sequence[tuple[UUID, str]]) -> Sequence[str]:
        if not declines:
            return []
        result = await self._connection.execute(
            statements.FAILURES,
            {
                "ids": [charge_id for charge_id, _ in declines],
                "declines": [decline for _, decline in declines],
            },
        )
        return result.scalars().all()

    async def announce_charges(self, announcements: Sequence[NewAnnouncement]) -> None:
        if announcements:
            rows = list(map(announcement_row, announcements))
            await self._connection.execute(
                statements.KEEP_ANNOUNCEMENTS, arrays(rows, ANNOUNCEMENT_COLUMNS)
            )

    async def notice(self, noticed: Sequence[Noticed], *, now: datetime) -> int:
        # One statement changes a row once; what was sent is sent, whatever else is said.
        latest = _last_of_each(
            noticed, key=lambda each: each.fact_id, order=lambda each: each.status == "sent"
        )
        result = await self._connection.execute(
            statements.NOTICE,
            {
                "facts": [each.fact_id for each in latest],
                "statuses": [each.status for each in latest],
                "ats": [each.at for each in latest],
                "now": now,
            },
        )
        return int(result.scalar_one())

    async def claim_expiring(
        self, *, until: str, after: UUID | None, limit: int
    ) -> Sequence[tuple[EnrolmentRecord, Sequence[int]]]:
        result = await self._connection.execute(
            statements.CLAIM_EXPIRING, {"until": until, "after": after, "limit": limit}
        )
        return [(enrolment_record(row), list(row.given)) for row in result]

    async def keep_warnings(
        self, warnings: Sequence[tuple[UUID, str, int]], *, now: datetime
    ) -> Sequence[bool]:
        if not warnings:
            return []
        result = await self._connection.execute(
            statements.KEEP_WARNINGS,
            {
                "enrolment_id": [enrolment_id for enrolment_id, _, _ in warnings],
                "expires": [expires for _, expires, _ in warnings],
                "days": [days for _, _, days in warnings],
                "warned_at": [now for _ in warnings],
            },
        )
        fresh = {(row.enrolment_id, row.days) for row in result}
        return [(enrolment_id, days) in fresh for enrolment_id, _, days in warnings]

    # Operators

    async def switch(self, *, is_paused: bool, entry: AuditEntry) -> None:
        await self._connection.execute(statements.TURN_SWITCH)
        await self._connection.execute(statements.SWITCH, {"is_paused": is_paused, "at": entry.at})
        await self.audit(entry)

    async def audit(self, entry: AuditEntry) -> None:
        await self._connection.execute(
            insert(audit_entries).values(
                at=entry.at,
                operator=entry.operator,
                action=entry.action,
                subject=entry.subject,
                note=entry.note,
            )
        )

    async def state(self, records: Sequence[OutboundRecord]) -> None:
        if records:
            self.rows.extend(await self._outbox.append(self._connection, records))


async def due_charges(
    connection: AsyncConnection,
    rows: Sequence[Row[Any]],
    *,
    zone: ZoneInfo,
    late_grace_days: int,
) -> list[DueCharge]:
    """Return charges, joined with their enrolments, with all that their decision needs."""
    if not rows:
        return []
    records = [charge_record(row, "c_") for row in rows]
    announced: dict[UUID, list[Announcement]] = {}
    told: dict[UUID, list[str]] = {}
    for row in await connection.execute(
        statements.ANNOUNCEMENTS_OF, {"ids": [record.id for record in records]}
    ):
        announced.setdefault(row.charge_id, []).append(announcement(row, zone=zone))
        if not row.is_void:
            told.setdefault(row.charge_id, []).append(row.status)
    owed = await _owed(connection, records)
    drafted = await _drafted(connection, records, late_grace_days=late_grace_days)
    return [
        DueCharge(
            record=record,
            enrolment=enrolment_record(row, "e_"),
            announcements=announced.get(record.id, []),
            owed=owed[record.id][0],
            unbilled=owed[record.id][1],
            has_old_draft=record.id in drafted,
            is_undeliverable=bool(told.get(record.id)) and UNDELIVERED.issuperset(told[record.id]),
        )
        for record, row in zip(records, rows, strict=True)
    ]


async def _owed(
    connection: AsyncConnection, records: Sequence[ChargeRecord]
) -> Mapping[UUID, tuple[Owed, Unbilled | None]]:
    result = await connection.execute(
        statements.OWED,
        {
            "ids": [record.id for record in records],
            "accounts": [record.account_id for record in records],
            "references": [record.bill_reference for record in records],
            "dues": [record.due_date for record in records],
        },
    )
    return {row.id: (_owed_of(row), _unbilled(row)) for row in result}


def _owed_of(row: Row[Any]) -> Owed:
    return Owed(
        statement_cents=row.statement_cents,
        paid_since_cents=row.paid_since_cents,
        balance_cents=row.balance_cents,
        open_cents=row.open_cents,
        is_newest=row.is_newest,
    )


def _unbilled(row: Row[Any]) -> Unbilled | None:
    if row.is_billed:
        return None
    return "due_date_changed" if row.is_open else "bill_cancelled"


async def _drafted(
    connection: AsyncConnection, records: Sequence[ChargeRecord], *, late_grace_days: int
) -> set[UUID]:
    accounts = sorted({record.account_id for record in records})
    drafts: dict[str, list[OldDraft]] = {}
    for row in await connection.execute(statements.OLD_DRAFTS, {"accounts": accounts}):
        drafts.setdefault(row.account_id, []).append(
            OldDraft(draft_date=row.draft_date, due_date=row.due_date)
        )
    if not drafts:
        return set()
    due_dates: dict[str, list[date]] = {}
    earliest = min(record.due_date for record in records) - timedelta(days=PLANNED_BACK_DAYS)
    for row in await connection.execute(
        statements.DUE_DATES, {"accounts": sorted(drafts), "horizon": earliest}
    ):
        due_dates.setdefault(row.account_id, []).append(row.due_date)
    return {
        record.id
        for record in records
        if record.account_id in drafts
        and has_old_draft(
            record.due_date,
            drafts=drafts[record.account_id],
            due_dates=due_dates.get(record.account_id, ()),
            late_grace_days=late_grace_days,
        )
    }


_ENROLMENT_WIDTH = len(ENROLMENT_COLUMNS)


def _situation(
    rows: Sequence[Sequence[Any]],
    held: Sequence[Row[Any]],
    drafts: Iterable[OldDraft],
    unit: SqlUnitOfWork,
) -> Situation:
    enrolment_values, owed = rows[0][:_ENROLMENT_WIDTH], rows[0][_ENROLMENT_WIDTH:]
    record = enrolment_of(enrolment_values)
    assert record.enrolment is not None
    balance_cents, paid_cents = owed[0], owed[1] or 0
    bills = [values[_ENROLMENT_WIDTH + 2 :] for values in rows]
    drafts = list(drafts)
    due_dates = [due_date for reference, due_date, *_ in bills if reference is not None]
    return Situation(
        account_id=record.account_id,
        enrolment=record.enrolment,
        taken_on=unit.day_of(record.taken_at),
        bills=[
            BillState(
                bill_reference=reference,
                due_date=due_date,
                statement_cents=amount_cents,
                paid_since_cents=paid_cents - paid_before_cents,
                currency=currency,
                stated_at=stated_at,
                has_old_draft=bool(drafts)
                and has_old_draft(
                    due_date,
                    drafts=drafts,
                    due_dates=due_dates,
                    late_grace_days=unit.late_grace_days,
                ),
            )
            for reference, due_date, amount_cents, paid_before_cents, currency, stated_at in bills
            if reference is not None
        ],
        charges={row.id: charge_record(row) for row in held},
        balance_cents=balance_cents,
        open_cents=sum(
            row.paid_cents or row.requested_cents or 0 for row in held if _is_under_way(row)
        ),
    )


def _is_under_way(row: Row[Any]) -> bool:
    return row.status in UNDER_WAY or (row.status == Status.PAID and row.posted_at is None)


def _last_of_each(items: Iterable[Any], *, key: Any, order: Any) -> list[Any]:
    """Return the last of each key by an order, sorted by key: rows are locked in one order."""
    latest: dict[Any, Any] = {}
    for item in sorted(items, key=order):
        latest[key(item)] = item
    return [latest[each] for each in sorted(latest, key=str)]
