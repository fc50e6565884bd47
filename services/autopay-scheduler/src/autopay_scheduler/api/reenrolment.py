"""HTTP in: the move from the old portal; translation only."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import date, datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import ClientDisconnect

from autopay_scheduler.domain.import_lines import FileRefusedError, LineProblem
from autopay_scheduler.domain.reenrolment import ReenrolmentEvent, ReenrolmentStatus
from autopay_scheduler.ports.reenrolment import (
    DayFigures,
    HistoryEntry,
    ImportReport,
    Lapsing,
    LapsingCursor,
)
from autopay_scheduler.usecases.reenrolment import (
    DeclineInvitations,
    FollowMove,
    ImportLists,
    ImportNotFoundError,
    ReenrolmentNotFoundError,
    SpanTooLongError,
)
from shared.contracts.enrolments import AutopayRule
from shared.contracts.fact import NO_CONTROL_CHARACTERS, AccountId
from shared.errors import PermanentError
from shared.runtime.problems import BearerKeys, Problem

Operator = Annotated[str, Field(min_length=1, max_length=64, pattern=NO_CONTROL_CHARACTERS)]
Note = Annotated[str, Field(min_length=1, max_length=500, pattern=NO_CONTROL_CHARACTERS)]
FileName = Annotated[str, Field(min_length=1, max_length=255, pattern=NO_CONTROL_CHARACTERS)]
Limit = Annotated[int, Query(ge=1, le=1000)]

_CSV_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"text/csv": {"schema": {"type": "string", "format": "binary"}}},
    }
}


class LineProblemView(BaseModel):
    """Why one line was not taken; never what it said."""

    line: int
    """The header is line 1."""
    field: str
    reason: str
    message: str


class ImportView(BaseModel):
    """What came of an import."""

    import_id: UUID
    dry_run: bool
    lines: int
    imported: int
    changed: int
    unchanged: int
    refused: int
    problems: list[LineProblemView]
    """The first thousand; all of them at `/reenrolment/imports/{import_id}/problems`."""
    problems_by_reason: dict[str, int]


class ProblemsPage(BaseModel):
    """An import's problems, by line."""

    problems: list[LineProblemView]
    next: int | None
    """`after` of the next page."""


class DueBillView(BaseModel):
    """A bill that would be missed."""

    model_config = ConfigDict(from_attributes=True)

    bill_reference: str
    due_date: date
    amount_cents: int
    currency: str


class LapsingView(BaseModel):
    """A customer who would miss a due date."""

    model_config = ConfigDict(from_attributes=True)

    account_id: str
    old_account: str
    name: str
    email: str | None
    invitations: int
    last_invited_on: date | None
    bill: DueBillView | None
    """None where no bill is known yet."""


class LapsingPageView(BaseModel):
    """Who would lapse, the most urgent first; go on while there is a `next`."""

    lapsing: list[LapsingView]
    next: str | None


class DayView(BaseModel):
    """The move on one day of the city."""

    day: date
    imported: int
    changed: int
    invited: int
    reminded: int
    enrolled: int
    declined: int
    past: int
    would_lapse: int
    """With a bill due on this day, unpaid and not drafted by the old portal, and not enrolled."""


class FiguresView(BaseModel):
    """Where the move stands, and its days."""

    by_status: dict[ReenrolmentStatus, int]
    without_email: int
    days: list[DayView]


class ReenrolmentView(BaseModel):
    """An imported enrolment."""

    model_config = ConfigDict(from_attributes=True)

    account_id: str
    old_account: str
    name: str
    email: str | None
    locale: str
    rule: AutopayRule
    status: ReenrolmentStatus
    imported_at: datetime
    invitations: int
    last_invited_on: date | None
    settled_at: datetime | None


class ReenrolmentPage(BaseModel):
    """Imported enrolments by account."""

    reenrolments: list[ReenrolmentView]
    next: str | None


class HistoryView(BaseModel):
    """One thing that happened."""

    at: datetime
    event: ReenrolmentEvent
    import_id: UUID | None
    line: int | None
    invitation: int | None
    due_date: date | None
    amount_cents: int | None
    before: dict[str, Any] | None


class ReenrolmentDetail(BaseModel):
    """An imported enrolment and its history, oldest first."""

    reenrolment: ReenrolmentView
    history: list[HistoryView]


class OperatorsWord(BaseModel):
    """Who says so, and why."""

    operator: Operator
    note: Note


class Withdrawal(OperatorsWord):
    """The old portal will not draft this account."""

    account_id: AccountId


class UploadRefusedError(PermanentError):
    """A body that is not read to its end."""

    def __init__(self, *, status: int, title: str) -> None:
        super().__init__(title)
        self.status = status
        self.title = title


def build_reenrolment_router(
    *,
    imports: ImportLists,
    declines: DeclineInvitations,
    move: FollowMove,
    keys: BearerKeys,
    size_max_bytes: int,
    seconds_max: float,
) -> APIRouter:
    """Return the operator's routes under `/reenrolment`.

    An upload larger than `size_max_bytes`, or slower than `seconds_max`, is refused with nothing
    kept.
    """
    router = APIRouter(
        prefix="/reenrolment",
        tags=["reenrolment"],
        dependencies=[Depends(keys)],
        responses={401: {"model": Problem}, 422: {"model": Problem}},
    )
    upload = _Upload(size_max_bytes=size_max_bytes, seconds_max=seconds_max)
    _add_imports(router, imports, upload)
    _add_lists(router, move)
    _add_words(router, declines, move)
    return router


def _add_imports(router: APIRouter, imports: ImportLists, upload: "_Upload") -> None:
    refusals: dict[int | str, dict[str, Any]] = {
        status: {"model": Problem} for status in (400, 408, 413, 415, 503)
    }

    @router.post(
        "/imports",
        response_model=ImportView,
        responses=refusals,
        openapi_extra=_CSV_BODY,
    )
    async def import_enrolments(
        request: Request, file_name: FileName, operator: Operator, dry_run: bool = False
    ) -> Any:
        """Import the old portal's enrolments: they await re-enrolment, and charge nobody."""
        return await upload(
            request,
            lambda chunks: imports.enrolments(
                chunks, file_name=file_name, operator=operator, is_dry=dry_run
            ),
        )

    @router.post(
        "/drafts",
        response_model=ImportView,
        responses=refusals,
        openapi_extra=_CSV_BODY,
    )
    async def import_drafts(
        request: Request, file_name: FileName, operator: Operator, dry_run: bool = False
    ) -> Any:
        """Import what the old portal still drafts: those due dates are not charged here."""
        return await upload(
            request,
            lambda chunks: imports.drafts(
                chunks, file_name=file_name, operator=operator, is_dry=dry_run
            ),
        )

    @router.get(
        "/imports/{import_id}/problems",
        response_model=ProblemsPage,
        responses={404: {"model": Problem}},
    )
    async def problems(
        import_id: UUID, after: Annotated[int, Query(ge=0)] = 0, limit: Limit = 100
    ) -> Any:
        """Return why lines of an import were not taken, `limit` lines at a time."""
        try:
            found = await imports.problems(import_id=import_id, after_line=after, limit=limit)
        except ImportNotFoundError as error:
            return Problem(status=404, title="No such import", detail=str(error)).response()
        lines = {each.line for each in found}
        return ProblemsPage(
            problems=_problem_views(found),
            next=max(lines) if len(lines) == limit else None,
        )


def _add_lists(router: APIRouter, move: FollowMove) -> None:
    @router.get("/lapsing", response_model=LapsingPageView)
    async def lapsing(until: date, after: str | None = None, limit: Limit = 100) -> Any:
        """List who would miss a due date up to a day, with bill and contact; then who has no bill.

        A page may be short, or empty, and still have a `next`.
        """
        try:
            cursor = _cursor(after)
        except ValueError:
            return _invalid("after", "is the `next` of the page before").response()
        page = await move.lapsing(until=until, after=cursor, limit=limit)
        return LapsingPageView(
            lapsing=[_lapsing_view(each) for each in page.rows],
            next=_cursor_text(page.next) if page.next else None,
        )

    @router.get("/figures", response_model=FiguresView)
    async def figures(since: date, until: date) -> Any:
        """Return where the move stands and what happened, and is due, on each day of a span."""
        try:
            days = await move.figures(since=since, until=until)
        except SpanTooLongError as error:
            return _invalid("until", f"the span is {error}").response()
        totals = await move.totals()
        by_status = {status: totals.by_status.get(status, 0) for status in ReenrolmentStatus}
        return FiguresView(
            by_status=by_status,
            without_email=totals.without_email,
            days=[_day_view(each) for each in days],
        )

    @router.get("", response_model=ReenrolmentPage)
    async def page(
        status: ReenrolmentStatus = ReenrolmentStatus.AWAITING,
        without_email: bool = False,
        after: AccountId | None = None,
        limit: Limit = 100,
    ) -> Any:
        """List imported enrolments of a status; `without_email` those nobody can write to."""
        rows = await move.page(status=status, without_email=without_email, after=after, limit=limit)
        return ReenrolmentPage(
            reenrolments=[ReenrolmentView.model_validate(each) for each in rows],
            next=rows[-1].account_id if len(rows) == limit else None,
        )


def _add_words(router: APIRouter, declines: DeclineInvitations, move: FollowMove) -> None:
    not_found: dict[int | str, dict[str, Any]] = {404: {"model": Problem}}

    @router.post("/drafts/withdraw", responses=not_found)
    async def withdraw_drafts(body: Withdrawal) -> Any:
        """Let an account's old drafts count no more: it is charged here again."""
        try:
            count = await move.withdraw_drafts(
                account_id=body.account_id, operator=body.operator, note=body.note
            )
        except ReenrolmentNotFoundError as error:
            return Problem(status=404, title="No such draft", detail=str(error)).response()
        return {"withdrawn": count}

    @router.get("/{account_id}", response_model=ReenrolmentDetail, responses=not_found)
    async def find(account_id: AccountId) -> Any:
        """Return an account's imported enrolment and its history."""
        try:
            reenrolment, history = await move.find(account_id)
        except ReenrolmentNotFoundError as error:
            return Problem(status=404, title="Never imported", detail=str(error)).response()
        return ReenrolmentDetail(
            reenrolment=ReenrolmentView.model_validate(reenrolment),
            history=[_history_view(each) for each in history],
        )

    @router.post("/{account_id}/decline", responses=not_found)
    async def decline(account_id: AccountId, body: OperatorsWord) -> Any:
        """Note that a customer told a clerk that autopay is not wanted any more."""
        try:
            await declines.by_operator(
                account_id=account_id, operator=body.operator, note=body.note
            )
        except ReenrolmentNotFoundError as error:
            return Problem(status=404, title="Nothing to decline", detail=str(error)).response()
        return {"status": "declined"}


class _Upload:
    """Reads a CSV body while it is imported, within its limits."""

    def __init__(self, *, size_max_bytes: int, seconds_max: float) -> None:
        self._size_max_bytes = size_max_bytes
        self._seconds_max = seconds_max

    async def __call__(
        self,
        request: Request,
        imported: Callable[[AsyncIterator[bytes]], Awaitable[ImportReport]],
    ) -> ImportView | JSONResponse:
        try:
            self._check(request)
            async with asyncio.timeout(self._seconds_max):
                return _import_view(await imported(self._chunks(request)))
        except FileRefusedError as error:
            return _file_problem(error).response()
        except UploadRefusedError as error:
            return Problem(status=error.status, title=error.title).response()
        except ClientDisconnect:
            return Problem(status=400, title="The body did not end; nothing is kept").response()
        except TimeoutError:
            title = f"The import took longer than {self._seconds_max:g} s; nothing is kept"
            return Problem(status=408, title=title).response()

    def _check(self, request: Request) -> None:
        media_type, _, parameters = request.headers.get("content-type", "").partition(";")
        charset = parameters.lower().replace(" ", "").replace('"', "")
        if media_type.strip().lower() != "text/csv" or charset not in ("", "charset=utf-8"):
            raise UploadRefusedError(status=415, title="The body is text/csv in UTF-8")
        if request.headers.get("content-encoding", "identity") != "identity":
            raise UploadRefusedError(status=415, title="The body is sent as it is, not compressed")
        declared = request.headers.get("content-length", "0")
        if declared.isdigit() and int(declared) > self._size_max_bytes:
            raise self._too_large()

    async def _chunks(self, request: Request) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > self._size_max_bytes:
                raise self._too_large()
            yield chunk

    def _too_large(self) -> UploadRefusedError:
        title = f"The body is larger than {self._size_max_bytes} bytes; import it in parts"
        return UploadRefusedError(status=413, title=title)


def _file_problem(error: FileRefusedError) -> Problem:
    entry = {"field": error.field or "file", "message": error.message, "reason": error.reason}
    if error.line is not None:
        entry["line"] = str(error.line)
    return Problem(
        status=422, title="The file is not imported", detail=error.message, errors=[entry]
    )


def _invalid(field: str, message: str) -> Problem:
    return Problem(
        status=422,
        title="The request is not valid",
        errors=[{"field": f"query.{field}", "message": message}],
    )


def _import_view(report: ImportReport) -> ImportView:
    return ImportView(
        import_id=report.id,
        dry_run=report.is_dry,
        lines=report.lines,
        imported=report.imported,
        changed=report.changed,
        unchanged=report.unchanged,
        refused=report.refused,
        problems=_problem_views(report.problems),
        problems_by_reason={str(k): v for k, v in report.problems_by_reason.items()},
    )


def _problem_views(problems: Sequence[LineProblem]) -> list[LineProblemView]:
    return [
        LineProblemView(line=each.line, field=each.field, reason=each.reason, message=each.message)
        for each in problems
    ]


def _lapsing_view(lapsing: Lapsing) -> LapsingView:
    return LapsingView.model_validate(lapsing)


def _day_view(figures: DayFigures) -> DayView:
    counts = {str(event): figures.events.get(event, 0) for event in ReenrolmentEvent}
    return DayView(day=figures.day, would_lapse=figures.would_lapse, **counts)


def _history_view(entry: HistoryEntry) -> HistoryView:
    return HistoryView(
        at=entry.at,
        event=entry.event,
        import_id=entry.import_id,
        line=entry.line,
        invitation=entry.invitation,
        due_date=entry.due_date,
        amount_cents=entry.amount_cents,
        before=dict(entry.before) if entry.before is not None else None,
    )


def _cursor(text: str | None) -> LapsingCursor | None:
    """Return the cursor that a page's `next` stands for.

    Raises:
        ValueError: it is none.
    """
    if text is None:
        return None
    day, separator, account_id = text.partition("/")
    if not separator:
        raise ValueError("no separator")
    return LapsingCursor(
        due_date=None if day == "-" else date.fromisoformat(day), account_id=account_id
    )


def _cursor_text(cursor: LapsingCursor) -> str:
    day = cursor.due_date.isoformat() if cursor.due_date else "-"
    return f"{day}/{cursor.account_id}"
