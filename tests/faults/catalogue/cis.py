"""Faults of the customer information system: every way in which it may be slow, away or wrong."""

from __future__ import annotations

import asyncio

from tests.faults.controls import until
from tests.faults.registry import Fault, fault
from tests.faults.run import Run
from tests.faults.violations import Violation

CALLS_PER_SECOND_MAX = 60.0
"""Of cis-poster while the CIS is down: its breaker is open, and a probe a second goes through."""
OPENING_SECONDS_MAX = 8.0
"""Of the breaker: five calls in a row have to fail first, and each is tried again after a while."""


@fault(
    22,
    title="the CIS times out or answers 500 after applying, is slow, flaps, is wrong, is down",
    how="switches of the reference CIS, one after the other: timeout_after_apply, "
    "error_after_apply, latency of 30 s, flapping, wrong_answer, down",
    oracles="LDANOT",
    touches=("cis",),
    short=True,
)
class WrongCis(Fault):
    """What is unknown is asked about, the breaker opens, and retries are bounded."""

    hold_seconds = 2.5

    breaking_seconds = 9.0

    async def prepare(self, run: Run) -> None:
        self.counted: dict[str, float] = {}
        self.began = 0.0
        self.opened = False
        self.lost_before = await self._lost(run)

    async def inject(self, run: Run) -> None:
        controls = run.controls
        for switches in (
            {"timeout_after_apply": {"count": 3}, "hang_ms": 4_000},
            {"error_after_apply": {"count": 4}},
            {"latency_ms": 30_000},
            {"latency_ms": 0, "flapping": {"period_ms": 600}},
            {"flapping": False, "wrong_answer": {"share": 0.5}},
        ):
            await controls.switch("cis", **switches)
            await asyncio.sleep(1.6)
        await controls.reset("cis")
        await controls.switch("cis", down=True)
        self.opened = await self._opens(run)
        self.counted = await controls.counters("cis-poster")
        self.began = asyncio.get_running_loop().time()

    async def heal(self, run: Run) -> None:
        now = await run.controls.counters("cis-poster")
        seconds = asyncio.get_running_loop().time() - self.began if self.counted else 1.0
        self.calls_per_second = (_calls(now) - _calls(self.counted)) / seconds
        await run.controls.reset("cis")

    async def check(self, run: Run) -> list[Violation]:
        asked = await self._lost(run) - self.lost_before
        run.note(calls_per_second_while_down=round(self.calls_per_second, 1), answers_lost=asked)
        if not run.alone:
            return []
        found = []
        if not asked:
            found.append(Violation(oracle="22", what="no answer was lost: nothing was proved"))
        if not self.opened:
            found.append(Violation(oracle="22", what="the breaker did not open"))
        if self.calls_per_second > CALLS_PER_SECOND_MAX:
            found.append(
                Violation(
                    oracle="22",
                    what=f"{self.calls_per_second:.0f} calls a second to a CIS that is down",
                )
            )
        return found

    async def _opens(self, run: Run) -> bool:
        """Whether the breaker has seen enough of it in time."""

        async def is_open() -> bool:
            return (await run.controls.counters("cis-poster")).get(BREAKER, 0.0) > 0

        try:
            await until(is_open, timeout_seconds=OPENING_SECONDS_MAX, what="breaker open")
        except TimeoutError:
            return False
        return True

    async def _lost(self, run: Run) -> int:
        count: int = await run.controls.value(
            "SELECT count(*) FROM cis_poster.failed_attempts WHERE outcome = 'lost'"
        )
        return count


@fault(
    23,
    title='the CIS answers "exists" with another amount',
    how="switch exists_other_amount for one account; cis-poster has to stop and alarm, and to "
    "overwrite nothing",
    oracles="LDAN",
    touches=("cis",),
    mixes=False,
)
class OtherAmount(Fault):
    hold_seconds = 2.0

    async def inject(self, run: Run) -> None:
        self.account = run.load.extra_accounts[0]
        await run.controls.switch("cis", exists_other_amount={"accounts": [self.account]})
        # Nothing of it may be posted: the CIS says that the key stands with another amount.
        self.trains = [run.load.extra(account=self.account, movements=()) for _ in range(3)]
        self.before = await run.controls.counters("cis-poster")
        await run.load.send(self.trains)

    async def heal(self, run: Run) -> None:
        async def all_are_stopped() -> bool:
            return await self._conflicted(run) == len(self.trains)

        await until(all_are_stopped, timeout_seconds=20, what="conflicts recorded")
        await run.controls.reset("cis")

    async def check(self, run: Run) -> list[Violation]:
        after = await run.controls.counters("cis-poster")
        alarms = after.get(ALARM, 0.0) - self.before.get(ALARM, 0.0)
        run.note(conflicted=await self._conflicted(run), alarms=alarms)
        found = []
        if alarms != len(self.trains):
            found.append(
                Violation(oracle="23", what=f"{alarms:g} alarms for {len(self.trains)} conflicts")
            )
        return found

    async def _conflicted(self, run: Run) -> int:
        count: int = await run.controls.value(
            "SELECT count(*) FROM cis_poster.postings"
            " WHERE account_id = $1 AND status = 'conflicted'",
            self.account,
        )
        return count


ALARM = "cis_poster_amount_conflicts_total"
BREAKER = "cis_poster_breaker_open"


def _calls(counters: dict[str, float]) -> float:
    return sum(
        value
        for name, value in counters.items()
        if name.startswith("cis_poster_cis_call_seconds_count")
    )
