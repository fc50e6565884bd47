"""Faults of clocks: set wrong, and at the days on which they are odd."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, date, datetime, timedelta
from typing import ClassVar

from tests.faults.evidence import sent_between
from tests.faults.load import Shape
from tests.faults.registry import Environments, Fault, Needs, fault
from tests.faults.run import Run
from tests.faults.subscribers import SCHEDULER, ZONE, Subscribers, start_scheduler
from tests.faults.tools.clocks import MovedClock
from tests.faults.tools.machine import reason_against
from tests.faults.tools.stacks import ClockedStack
from tests.faults.violations import Violation

from paypost.stack.local import SERVICES, LocalStack

JUMP = timedelta(minutes=10)
WITHIN = timedelta(minutes=4)
"""Less than a signature may be off (5 minutes), however long its request takes."""
KNOWN_SECONDS = 2.5
"""A moved clock is read again after a second, as whole seconds go."""
JUMP_SECONDS = 2.0
CARD = "pm_card_visa"


def _clocked(name: str, environments: Environments) -> LocalStack:
    return ClockedStack(name=name, environments=environments)


@fault(
    16,
    title="clocks 10 minutes off, either way; a charge in the hour that is left out, and at the "
    "month's end",
    how="libfaketime under all services, behind by 10 minutes, ahead by 4 and by 10; the "
    "scheduler's clock moved to 02:30 of the day on which clocks go forward, and to midnight "
    "before the first of a month",
    oracles="LDA",
    touches=("clock", *SERVICES),
    recovery_seconds_max=40.0,
    mixes=False,
)
class WrongClocks(Fault):
    needs: ClassVar[Needs] = Needs(key="clocked", open=_clocked)
    shape = Shape(payments=100, tail=12, charges=0, accounts=30)
    hold_seconds = 0.5
    breaking_seconds = 16.0
    """The odd days come when the load is through: they need none."""

    def unavailable(self) -> str | None:
        return reason_against(MovedClock.probe)

    async def prepare(self, run: Run) -> None:
        self.customers = Subscribers(run=run, tokens=dict.fromkeys(range(5), CARD))
        await self.customers.enrol()
        self.windows: dict[timedelta, tuple[float, float]] = {}

    async def inject(self, run: Run) -> None:
        clock = _stack(run).clock
        for by in (-JUMP, WITHIN, JUMP):
            clock.move(by)
            await asyncio.sleep(KNOWN_SECONDS)
            begin = time.time()
            # As many as show what becomes of a signature made now.
            probes = [run.load.extra() for _ in range(5)]
            self.sending = getattr(self, "sending", [])
            self.sending.append(asyncio.create_task(run.load.send(probes)))
            await asyncio.sleep(JUMP_SECONDS)
            self.windows[by] = (begin, time.time())
        clock.move(timedelta())
        await asyncio.sleep(KNOWN_SECONDS)
        await asyncio.gather(*self.sending)
        await self._odd_day(run, _next_change_forward(), charge_time="02:30")
        await self._odd_day(run, _next_month_begin(), charge_time="00:00")

    async def _odd_day(self, run: Run, day: date, *, charge_time: str) -> None:
        """Have bills due that day charged, by a scheduler that was killed before the moment."""
        hour, minute = map(int, charge_time.split(":"))
        moment = datetime(day.year, day.month, day.day, hour, minute, tzinfo=ZONE)
        ahead = moment.astimezone(UTC) - datetime.now(UTC) - timedelta(seconds=2)
        told = {"AUTOPAY_SCHEDULER_CHARGE_TIME": charge_time}
        await self.customers.bill(due_on=day)
        paid = dict.fromkeys(self.customers.tokens, "paid")
        await start_scheduler(run, ahead=ahead, settings=told)
        await self.customers.come_to(paid, due_on=day)

    async def heal(self, run: Run) -> None:
        _stack(run).clock.move(timedelta())
        await start_scheduler(run, settings={"AUTOPAY_SCHEDULER_CHARGE_TIME": "00:00"})
        await run.controls.until_ready()

    async def check(self, run: Run) -> list[Violation]:
        violations = await self.customers.wrongly_charged(once=self.customers.bills)
        for by, (begin, end) in self.windows.items():
            statuses = [each.status for each in sent_between(run, begin, end)]
            wanted = {200} if by == WITHIN else {401}
            run.note(
                **{
                    f"answered_at_{by.total_seconds() / 60:+.0f}_min": sorted(
                        map(str, set(statuses))
                    )
                }
            )
            if not statuses or set(statuses) != wanted:
                violations.append(
                    Violation(
                        oracle="fault",
                        what=f"with clocks off by {by} webhooks were answered {set(statuses)}",
                    )
                )
        return violations


def _stack(run: Run) -> ClockedStack:
    assert isinstance(run.stack, ClockedStack)
    return run.stack


def _next_change_forward() -> date:
    """The next day on which the city's clocks leave out an hour."""
    day = datetime.now(ZONE).date() + timedelta(days=1)
    for _ in range(400):
        before, after = (datetime(day.year, day.month, day.day, h, tzinfo=ZONE) for h in (0, 12))
        if after.utcoffset() > before.utcoffset():  # type: ignore[operator]
            return day
        day += timedelta(days=1)
    raise AssertionError(f"the clocks of {ZONE} never go forward; {SCHEDULER} has no odd day")


def _next_month_begin() -> date:
    """The first of the month after the next change forward: later than that day."""
    day = _next_change_forward()
    return (day.replace(day=1) + timedelta(days=32)).replace(day=1)
