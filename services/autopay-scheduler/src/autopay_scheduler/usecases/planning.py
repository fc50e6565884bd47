"""Planning: what bills, enrolments and payments make of charges."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from autopay_scheduler.domain.charges import Status
from autopay_scheduler.domain.city import City
from autopay_scheduler.domain.enrolments import EnrolmentRecord
from autopay_scheduler.domain.planning import ChargeRecord, Situation, plan
from autopay_scheduler.ports.store import Store
from autopay_scheduler.usecases import facts
from shared.contracts.fact import Fact


class PlanningMetrics(Protocol):
    """What is counted of plans."""

    def planned(self, *, accounts: int) -> None: ...
    def charge(self, *, status: str, reason: str, count: int = 1) -> None: ...


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
            for situation in situations:
                records = plan(situation, now=now, city=self.city)
                for record in records:
                    (changed if record.id in situation.charges else new).append(record)
                stated.extend(_stated(records, situation, now))
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
