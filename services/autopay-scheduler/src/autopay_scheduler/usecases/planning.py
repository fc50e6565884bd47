"""Planning: what bills, enrolments and payments make of charges."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from autopay_scheduler.domain.charges import Status
from autopay_scheduler.domain.city import City
from autopay_scheduler.domain.enrolments import EnrolmentRecord
from autopay_scheduler.domain.planning import ChargeRecord, Situation, plan
from autopay_scheduler.ports.store import Store
from autopay_scheduler.usecases import facts
from shared.contracts.fact import Fact

_log = structlog.get_logger(__name__)

UNPLANNABLE_AGAIN = timedelta(hours=1)
"""When an account that could not be planned is tried again: it is on the alarm by then."""


class PlanningMetrics(Protocol):
    """What is counted of plans."""

    def planned(self, *, accounts: int) -> None: ...
    def charge(self, *, status: str, reason: str, count: int = 1) -> None: ...
    def undecidable(self, *, what: str) -> None: ...


@dataclass(frozen=True, kw_only=True)
class PlanCharges:
    """Plans the accounts that are due for it, a bounded number a call."""

    store: Store
    city: City
    metrics: PlanningMetrics

    async def __call__(self, *, now: datetime, limit: int) -> int:
        """Return how many accounts were planned; whatever runs twice plans nothing twice."""
        async with self.store.transaction() as unit:
            taken, situations = await unit.claim_plans(
                now=now, today=self.city.calendar.today(now=now), limit=limit
            )
            new: list[ChargeRecord] = []
            changed: list[ChargeRecord] = []
            stated: list[Fact] = []
            put_off: list[str] = []
            for situation in situations:
                try:
                    records = plan(situation, now=now, city=self.city)
                    facts_of_it = _stated(records, situation, now)
                except Exception:
                    # A defect in one account's plan holds up no other's: it is tried again later.
                    _log.exception("account.not_plannable", account_id=situation.account_id)
                    self.metrics.undecidable(what="plan")
                    put_off.append(situation.account_id)
                    continue
                for record in records:
                    (changed if record.id in situation.charges else new).append(record)
                stated.extend(facts_of_it)
            await unit.plan_accounts(put_off, at=now + UNPLANNABLE_AGAIN)
            await unit.add_charges(new, now=now)
            await unit.save_charges(changed)
            if stated:
                await unit.state([facts.recorded(fact) for fact in stated])
        self.metrics.planned(accounts=taken)
        counted = Counter((record.status, reason_label(record)) for record in (*new, *changed))
        for (status, reason), count in counted.items():
            self.metrics.charge(status=status, reason=reason, count=count)
        return taken


def _stated(records: Sequence[ChargeRecord], situation: Situation, now: datetime) -> list[Fact]:
    """Return what is to be said of charges that planning has brought to an end, or to a halt."""
    stated: list[Fact] = []
    for record in records:
        if record.status in (Status.PLANNED, Status.ANNOUNCED):
            continue
        enrolment = _record_of(situation)
        match record.status:
            case Status.HELD:
                maximum_cents = int((record.reason or "").rpartition(":")[2])
                stated.append(facts.held(record, enrolment, maximum_cents=maximum_cents, at=now))
            case Status.SKIPPED:
                stated.append(
                    facts.closed(record, enrolment, outcome="skipped", amount_cents=0, at=now)
                )
            case Status.MISSED:
                stated.append(
                    facts.closed(record, enrolment, outcome="missed", amount_cents=0, at=now)
                )
            case _:
                raise AssertionError(f"planning does not make charges {record.status}")
    return stated


def _record_of(situation: Situation) -> EnrolmentRecord:
    enrolment = situation.enrolment
    return EnrolmentRecord(
        id=enrolment.id,
        account_id=enrolment.account_id,
        reference=enrolment.reference,
        status=enrolment.status,
        reason=None,
        enrolment=enrolment,
        word_at=enrolment.word_at,
        taken_at=enrolment.word_at,
    )


def reason_label(record: ChargeRecord) -> str:
    """Return a charge's reason as a metric's label: without the amount that some carry."""
    return (record.reason or "").partition(":")[0]
