"""Faults of the mail server."""

from __future__ import annotations

import asyncio

from tests.faults.controls import until
from tests.faults.registry import Fault, fault
from tests.faults.run import Run


@fault(
    27,
    title="SMTP answers 4xx, refuses connections, hangs, accepts and drops the answer; 5xx for one",
    how="switches of the mail sink, one after the other; a permanent refusal for one customer",
    oracles="LDANT",
    touches=("mail",),
    repeats_mails=True,
)
class WrongMail(Fault):
    hold_seconds = 1.5
    breaking_seconds = 7.0

    async def inject(self, run: Run) -> None:
        for switches in (
            {"temporary_failure": {"share": 0.6}},
            {"temporary_failure": False, "refuse_connection": True},
            {"refuse_connection": False, "hang": {"count": 6}, "hang_ms": 5_000},
            {"drop_answer": {"count": 6}},
        ):
            await run.controls.switch("mail", **switches)
            await asyncio.sleep(1.6)
        # Refused for good: no confirmation can come, and the chain has to end all the same.
        account = run.load.extra_accounts[1]
        address = run.load.addresses[account]
        await run.controls.switch("mail", permanent_failure={"addresses": [address]})
        train = run.load.extra(account=account)
        run.untold.add(train.reference)
        await run.load.send([train])

    async def heal(self, run: Run) -> None:
        await until(
            lambda: self._given_up(run), timeout_seconds=60, what="a refusal for good recorded"
        )
        sink = await run.controls.switches("mail")
        run.note(refused_for_good=sink["permanent_failure"]["fired"])
        await run.controls.reset("mail")

    async def _given_up(self, run: Run) -> bool:
        return bool(
            await run.controls.value(
                "SELECT count(*) FROM notifier.notifications"
                " WHERE account_id = $1 AND kind = 'posted' AND status = 'failed'",
                run.load.extra_accounts[1],
            )
        )
