"""What the portal and operators may read: an account's autopay, a day's preview, the report."""

from collections.abc import Sequence
from datetime import date, datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from autopay_scheduler.domain.amounts import Charge, Hold, Skip
from autopay_scheduler.domain.charges import Miss, Wait
from autopay_scheduler.domain.enrolments import EnrolmentRecord
from autopay_scheduler.domain.notices import Announcement
from autopay_scheduler.domain.planning import ChargeRecord
from autopay_scheduler.ports.store import AccountView, Evidence, Report
from autopay_scheduler.usecases.facts import method_of, rule_of
from autopay_scheduler.usecases.viewing import Foreseen, ViewAutopay
from shared.contracts.enrolments import AutopayRule, PaymentMethod
from shared.contracts.fact import NO_CONTROL_CHARACTERS
from shared.runtime.problems import BearerKeys, Problem

PREVIEW_PAGE_MAX = 1000


class EnrolmentState(BaseModel):
    """An enrolment, without the processor's tokens."""

    id: UUID
    reference: str
    status: str
    reason: str | None
    method: PaymentMethod | None
    rule: AutopayRule | None
    authorisation_version: str | None
    authorised_at: datetime | None
    resume_on: date | None
    taken_at: datetime
    ended_at: datetime | None


class MandateState(BaseModel):
    """One word of the customer: the evidence of the mandate."""

    type: str
    said_at: datetime
    authorisation_version: str | None
    authorised_at: datetime | None
    event_source: str
    event_id: str
    document: dict[str, Any]


class AnnouncementState(BaseModel):
    """One advance notice."""

    version: int
    amount_cents: int
    left_cents: int
    charge_on: date
    announced_on: date
    noticed_on: date | None


class ChargeState(BaseModel):
    """A charge, live."""

    id: UUID
    account_id: str
    bill_reference: str
    due_date: date
    charge_on: date
    amount_cents: int
    currency: str
    status: str
    reason: str | None
    attempt: int
    next_at: datetime | None
    requested_cents: int | None
    requested_at: datetime | None
    paid_cents: int | None
    payment_id: UUID | None
    closed_at: datetime | None
    announcements: list[AnnouncementState] = []


class AccountState(BaseModel):
    """Everything about one account's autopay."""

    account_id: str
    balance_cents: int | None
    under_way_cents: int
    enrolments: list[EnrolmentState]
    mandates: list[MandateState]
    charges: list[ChargeState]


class ForeseenCharge(BaseModel):
    """What would happen to one charge on its day, as things stand now."""

    charge: ChargeState
    enrolment_id: UUID
    would: str
    """`charge`, `skip`, `hold`, `wait`, `miss`; or the status that it has come to already."""
    amount_cents: int
    """What would be charged; 0 where nothing would."""
    why: str | None


class Preview(BaseModel):
    """A page of a day's charges, by account."""

    day: date
    is_paused: bool
    charges: list[ForeseenCharge]
    next_after: str | None
    """Pass it as `after` for the next page; None on the last one."""


class ReportState(BaseModel):
    """The figures of autopay since a day."""

    since: date
    is_paused: bool
    enrolments: dict[str, int]
    charges: dict[str, int]
    charged_cents: int
    stopped: dict[str, int]
    accounts_to_plan: int
    missed: list[ChargeState]
    held: list[ChargeState]
    failed: list[ChargeState]


def build_reading_router(*, view: ViewAutopay, keys: BearerKeys) -> APIRouter:
    """Return the routes that change nothing."""
    router = APIRouter(
        tags=["autopay"],
        dependencies=[Depends(keys)],
        responses={401: {"model": Problem}, 422: {"model": Problem}},
    )

    @router.get("/accounts/{account_id}/autopay", responses={404: {"model": Problem}})
    async def get_account(
        account_id: Annotated[str, Path(max_length=64, pattern=NO_CONTROL_CHARACTERS)],
    ) -> AccountState:
        """Return an account's enrolments with their evidence, and its charges, newest first."""
        found = await view.account(account_id)
        if found is None:
            raise HTTPException(404, "Nothing is known of this account")
        return account_state(found)

    @router.get("/autopay/preview")
    async def get_preview(
        date: date,
        after: Annotated[str | None, Query(max_length=128, pattern=NO_CONTROL_CHARACTERS)] = None,
        limit: Annotated[int, Query(ge=1, le=PREVIEW_PAGE_MAX)] = 100,
    ) -> Preview:
        """Say who would be charged how much on a day, and who not and why."""
        page = await view.preview(day=date, after=_cursor(after), limit=limit)
        last = page[-1].due.record if len(page) == limit else None
        return Preview(
            day=date,
            is_paused=(await view.switch()).is_paused,
            charges=[foreseen(each) for each in page],
            next_after=f"{last.account_id}/{last.id}" if last is not None else None,
        )

    @router.get("/autopay/report")
    async def get_report(since: date | None = None) -> ReportState:
        """Return the figures since a day, by default of the last thirty, with the clerk's lists."""
        day, report = await view.report(since=since)
        return report_state(day, report)

    return router


def _cursor(after: str | None) -> tuple[str, str] | None:
    if after is None:
        return None
    account_id, slash, charge_id = after.rpartition("/")
    if not slash:
        raise HTTPException(422, "after is not a page's end")
    return account_id, charge_id


def foreseen(each: Foreseen) -> ForeseenCharge:
    """Return a charge of the preview as the API shows it."""
    would, amount_cents = "", 0
    why: str | None = None
    match each.decision:
        case Charge(amount_cents):
            would = "charge"
        case Skip(why):
            would = "skip"
        case Hold(_, maximum_cents):
            would, why = "hold", f"above_maximum:{maximum_cents}"
        case Wait(why):
            would = "wait"
        case Miss(why):
            would = "miss"
        case None:
            would, why = each.due.record.status, each.due.record.reason
    return ForeseenCharge(
        charge=charge_state(each.due.record, each.due.announcements),
        enrolment_id=each.due.record.enrolment_id,
        would=would,
        amount_cents=amount_cents,
        why=why,
    )


def account_state(view: AccountView) -> AccountState:
    """Return an account as the API shows it."""
    return AccountState(
        account_id=view.account_id,
        balance_cents=view.balance_cents,
        under_way_cents=view.open_cents,
        enrolments=[enrolment_state(each) for each in view.enrolments],
        mandates=[_mandate_state(each) for each in view.evidence],
        charges=[charge_state(record, told) for record, told in view.charges],
    )


def enrolment_state(record: EnrolmentRecord) -> EnrolmentState:
    """Return an enrolment as the API shows it: its tokens stay here."""
    held = record.enrolment
    return EnrolmentState(
        id=record.id,
        reference=record.reference,
        status=record.status,
        reason=record.reason,
        method=method_of(held.method) if held else None,
        rule=rule_of(held.rule) if held else None,
        authorisation_version=held.authorisation_version if held else None,
        authorised_at=held.authorised_at if held else None,
        resume_on=held.resume_on if held else None,
        taken_at=record.taken_at,
        ended_at=record.ended_at,
    )


def _mandate_state(word: Evidence) -> MandateState:
    tokens = ("payment_method_token", "customer_token", "mandate_token")
    return MandateState(
        type=word.type,
        said_at=word.said_at,
        authorisation_version=word.authorisation_version,
        authorised_at=word.authorised_at,
        event_source=word.event_source,
        event_id=word.event_id,
        document={name: value for name, value in word.document.items() if name not in tokens},
    )


def charge_state(record: ChargeRecord, announcements: Sequence[Announcement] = ()) -> ChargeState:
    """Return a charge as the API shows it."""
    return ChargeState(
        id=record.id,
        account_id=record.account_id,
        bill_reference=record.bill_reference,
        due_date=record.due_date,
        charge_on=record.charge_on,
        amount_cents=record.amount_cents,
        currency=record.currency,
        status=record.status,
        reason=record.reason,
        attempt=record.attempt,
        next_at=record.act_at,
        requested_cents=record.requested_cents,
        requested_at=record.requested_at,
        paid_cents=record.paid_cents,
        payment_id=record.payment_id,
        closed_at=record.closed_at,
        announcements=[
            AnnouncementState(
                version=each.version,
                amount_cents=each.amount_cents,
                left_cents=each.left_cents,
                charge_on=each.charge_on,
                announced_on=each.announced_on,
                noticed_on=each.noticed_on,
            )
            for each in announcements
        ],
    )


def report_state(since: date, report: Report) -> ReportState:
    """Return the report as the API shows it."""
    return ReportState(
        since=since,
        is_paused=report.is_paused,
        enrolments=dict(report.enrolments),
        charges=dict(report.charges),
        charged_cents=report.charged_cents,
        stopped=dict(report.stopped),
        accounts_to_plan=report.to_plan,
        missed=[charge_state(each) for each in report.missed],
        held=[charge_state(each) for each in report.held],
        failed=[charge_state(each) for each in report.failed],
    )
