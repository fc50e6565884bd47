"""Faults of autopay: schedulers that crash, meet and sleep in, and debits that come back."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import ClassVar

from tests.faults.controls import until
from tests.faults.load import Shape
from tests.faults.registry import Fault, fault
from tests.faults.run import Run
from tests.faults.subscribers import (
    SCHEDULER,
    Subscribers,
    let_days_pass_at_the_bank,
    start_scheduler,
    today,
)
from tests.faults.violations import Violation

from shared.contracts.enrolments import AutopayRule

CARD = "pm_card_visa"
SECOND = f"{SCHEDULER} second"
DAYS_OFF = 3


@fault(
    28,
    title="two schedulers at once; crashes in mid-batch; run twice; off for three days",
    how="a second scheduler; SIGKILL of each in turn; one crashed again and again at the seam "
    "between commit and publish; in the end one down over three due dates, started three days "
    "later by its clock, and once more",
    oracles="LDAN",
    touches=(SCHEDULER,),
    recovery_seconds_max=40.0,
    mixes=False,
)
class ManySchedulers(Fault):
    shape = Shape(payments=60, tail=8, charges=50, accounts=20)
    hold_seconds = 1.0
    breaking_seconds = 14.0

    async def prepare(self, run: Run) -> None:
        await run.blocking(run.controls.add_instance, SCHEDULER, name=SECOND)
        await run.blocking(run.stack.supervisor.wait_ready, name=SECOND, timeout_seconds=60)
        # Each account is billed once: a second bill would say what is owed in all.
        self.agreed = Subscribers(run=run, tokens=dict.fromkeys(range(8), CARD))
        self.unagreed = Subscribers(run=run, tokens={8: CARD, 9: CARD}, rule=AutopayRule())
        await self.agreed.enrol()
        await self.unagreed.enrol()

    async def inject(self, run: Run) -> None:
        supervisor = run.stack.supervisor
        victims = (SCHEDULER, SECOND, SCHEDULER, SECOND)
        for name in victims:
            await asyncio.sleep(run.chance.uniform(0.3, 0.9))
            await run.blocking(supervisor.kill, name=name)
        await run.blocking(supervisor.stop, name=SECOND)
        await start_scheduler(run, wait=False, settings={"PAYPOST_FAILPOINT": "committed:1"})
        # Whoever crashes at every commit may never come to hear of them: then the second does.
        billing = asyncio.create_task(self.agreed.bill(due_on=today(), numbers=(0, 1)))
        await until(lambda: _has_crashed(run), timeout_seconds=20, what="a crash at the seam")
        crashes = supervisor.starts(name=SCHEDULER) - 1
        run.note(kills=len(victims), crashes_at_the_seam=crashes)
        await run.blocking(supervisor.resume, name=SECOND)
        await billing

    async def heal(self, run: Run) -> None:
        await start_scheduler(run)
        if SECOND in run.stack.supervisor.names:
            await run.blocking(run.stack.supervisor.stop, name=SECOND)
        await run.controls.until_ready()

    async def check(self, run: Run) -> list[Violation]:
        """Three days off, when all else has been judged: other clocks stay in the present."""
        days = [today() + timedelta(days=number) for number in range(1, DAYS_OFF + 1)]
        billed = {day: (2 * number, 2 * number + 1) for number, day in enumerate(days, start=1)}
        for day, numbers in billed.items():
            await self.agreed.bill(due_on=day, numbers=numbers, owed_once=False)
        await self.unagreed.bill(due_on=days[0], owed_once=False)
        try:
            await start_scheduler(run, ahead=timedelta(days=DAYS_OFF, minutes=1))
            for day, numbers in billed.items():
                await self.agreed.come_to(dict.fromkeys(numbers, "paid"), due_on=day)
            await self.unagreed.come_to(dict.fromkeys((8, 9), "missed"), due_on=days[0])
            # As a clerk does who is not sure whether it ran.
            await start_scheduler(run, ahead=timedelta(days=DAYS_OFF, minutes=2))
            await asyncio.sleep(2.0)
            violations = await self.agreed.wrongly_charged(once=self.agreed.bills)
            violations += [
                Violation(oracle="notice", what=f"{account} was charged without notice: {ends}")
                for account, ends in (await self.unagreed.attempts_by_account()).items()
            ]
        finally:
            await start_scheduler(run)
        run.note(charged_after_days_off=len(self.agreed.bills) - 2, missed=2)
        return violations


async def _has_crashed(run: Run) -> bool:
    return run.stack.supervisor.starts(name=SCHEDULER) > 1


@fault(
    29,
    title="returns: R01, presented again, R01, presented again, R01",
    how="debits that the processor's bank returns once, twice, three times and always; its clock "
    "and the scheduler's moved from return to retry day",
    oracles="LDA",
    touches=(SCHEDULER, "clock"),
    mixes=False,
)
class ReturnedDebits(Fault):
    """Nacha lets a debit returned R01 be presented again twice; the third return is the last."""

    shape = Shape(payments=60, tail=8, charges=0, accounts=20)
    hold_seconds = 0.5
    breaking_seconds = 20.0
    tokens: ClassVar[dict[int, str]] = {
        0: "pm_script_ach_R01_0",
        1: "pm_script_ach_R01_1",
        2: "pm_script_ach_R01_2",
        3: "pm_script_ach_R01_3",
        4: "pm_script_ach_R01",
    }
    returns: ClassVar[dict[int, int]] = {0: 0, 1: 1, 2: 2, 3: 3, 4: 3}
    """By account's number, how often the bank sends the debit back: the third is given up."""

    async def prepare(self, run: Run) -> None:
        self.debits = Subscribers(run=run, tokens=self.tokens)
        await self.debits.enrol()
        self.due_on = today()

    async def inject(self, run: Run) -> None:
        debits, due_on = self.debits, self.due_on
        await debits.bill(due_on=due_on, owed_once=False)
        debits.expect(debits.bills[:3])
        await debits.come_to(dict.fromkeys(self.tokens, "pending"), due_on=due_on)
        for presented, days in enumerate((3, 7), start=1):
            await let_days_pass_at_the_bank(run)
            back = {n: "retrying" for n, most in self.returns.items() if most >= presented}
            settled = {n: "paid" for n, most in self.returns.items() if most == presented - 1}
            await debits.come_to(back | settled, due_on=due_on)
            await start_scheduler(run, ahead=timedelta(days=days, hours=2))
            await debits.come_to(dict.fromkeys(back, "pending"), due_on=due_on)
        await let_days_pass_at_the_bank(run)
        await debits.come_to({2: "paid", 3: "failed", 4: "failed"}, due_on=due_on)

    async def heal(self, run: Run) -> None:
        await start_scheduler(run)
        await run.controls.until_ready()

    async def check(self, run: Run) -> list[Violation]:
        found = await self.debits.attempts_by_account()
        run.note(presented=[len(found.get(self._name(number), ())) for number in self.tokens])
        violations = [
            Violation(
                oracle="nacha",
                what=f"{self._name(number)} was presented {len(found[self._name(number)])} times, "
                f"not {wanted}: {found[self._name(number)]}",
            )
            for number, most in self.returns.items()
            if len(found[self._name(number)]) != (wanted := min(most + 1, 3))
        ]
        return violations + await self.debits.wrongly_charged(once=self.debits.bills[:3])

    def _name(self, number: int) -> str:
        return self.debits.account(number)
