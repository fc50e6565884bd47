"""How an enrolment ends, whoever ends it: its charges end with it, and all is said."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from autopay_scheduler.domain.charges import NOT_ASKED_FOR, WITH_INTAKE, Status
from autopay_scheduler.domain.enrolments import EnrolmentRecord, EnrolmentStatus
from autopay_scheduler.domain.planning import ChargeRecord
from autopay_scheduler.ports.store import UnitOfWork
from autopay_scheduler.usecases import facts
from shared.contracts.autopay import StopReason
from shared.contracts.fact import Fact

ASKED_FOR = WITH_INTAKE | {Status.PAID}
CLOCKS_DIFFER_AT_MOST = timedelta(hours=1)
"""A charge paid since so long before the customer's word is put to payment-intake: its rule of
grace, on the processor's answer, says whether it goes back."""


async def stop(
    unit: UnitOfWork,
    records: Sequence[EnrolmentRecord],
    *,
    reason: StopReason,
    said_at: datetime,
    now: datetime,
) -> list[EnrolmentRecord]:
    """Stop these enrolments, which are on and locked, and end what is open of them.

    What intake was asked for already is cancelled there: withdrawn, or given back where the
    customer's word came before the money was taken.
    """
    if not records:
        return []
    ended = [_stopped(record, reason, now) for record in records]
    await unit.save_enrolments(ended)
    by_id = {record.id: record for record in ended}
    stated: list[Fact] = [facts.stopped(record, reason=reason, at=now) for record in ended]
    changed: list[ChargeRecord] = []
    found = await unit.open_charges_of(
        [record.id for record in ended], paid_since=said_at - CLOCKS_DIFFER_AT_MOST
    )
    for charge in found:
        enrolment = by_id[charge.enrolment_id]
        if charge.status in NOT_ASKED_FOR:
            charge = replace(  # noqa: PLW2901
                charge, status=Status.CANCELLED, reason=reason, act_at=None, closed_at=now
            )
            stated.append(
                facts.closed(charge, enrolment, outcome="cancelled", amount_cents=0, at=now)
            )
        elif charge.status in ASKED_FOR and charge.cancelled_at is None:
            charge = replace(charge, cancelled_at=said_at)  # noqa: PLW2901
            stated.append(facts.cancelled(charge, enrolment))
        else:
            continue
        changed.append(charge)
    await unit.save_charges(changed)
    await unit.state([facts.recorded(fact) for fact in stated])
    return ended


def _stopped(record: EnrolmentRecord, reason: StopReason, now: datetime) -> EnrolmentRecord:
    held = record.enrolment
    return replace(
        record,
        status=EnrolmentStatus.STOPPED,
        reason=reason,
        enrolment=replace(held, status=EnrolmentStatus.STOPPED) if held else None,
        ended_at=now,
    )
