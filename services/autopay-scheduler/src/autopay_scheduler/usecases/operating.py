"""What operators do: pause and resume all charges, stop an enrolment; each with an audit entry."""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from autopay_scheduler.domain.enrolments import ON, EnrolmentRecord
from autopay_scheduler.ports.store import AuditEntry, Store
from autopay_scheduler.usecases.endings import stop
from shared.clock import Clock
from shared.errors import PermanentError

REQUESTS_SWITCH = "requests"


class UnknownEnrolmentError(PermanentError):
    """There is no such enrolment."""

    def __init__(self, *, enrolment_id: UUID) -> None:
        super().__init__(f"no enrolment {enrolment_id}")
        self.enrolment_id = enrolment_id


class OperatingMetrics(Protocol):
    """What is counted of operators' acts."""

    def stopped(self, *, reason: str) -> None: ...
    def paused(self, *, is_paused: bool) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Operate:
    """The operators' acts; each is one transaction with its audit entry."""

    store: Store
    clock: Clock
    metrics: OperatingMetrics

    async def pause(self, *, is_paused: bool, operator: str, note: str) -> datetime:
        """Pause or resume all requests; holds from this commit on."""
        now = self.clock()
        action = "pause" if is_paused else "resume"
        entry = AuditEntry(
            at=now, operator=operator, action=action, subject=REQUESTS_SWITCH, note=note
        )
        async with self.store.transaction() as unit:
            await unit.switch(is_paused=is_paused, entry=entry)
        self.metrics.paused(is_paused=is_paused)
        return now

    async def stop(self, *, enrolment_id: UUID, operator: str, note: str) -> EnrolmentRecord:
        """Stop an enrolment; one that is off already stays as it is.

        Raises:
            UnknownEnrolmentError: there is none.
        """
        now = self.clock()
        async with self.store.transaction() as unit:
            found = await unit.lock_enrolments(ids=[enrolment_id], account_ids=[])
            if not found:
                raise UnknownEnrolmentError(enrolment_id=enrolment_id)
            if found[0].status not in ON:
                return found[0]
            entry = AuditEntry(
                at=now, operator=operator, action="stop", subject=str(enrolment_id), note=note
            )
            await unit.audit(entry)
            ended = await stop(unit, found, reason="stopped_by_operator", said_at=now, now=now)
        self.metrics.stopped(reason="stopped_by_operator")
        return ended[0]
