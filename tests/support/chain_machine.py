"""The chain from webhook to customer under everything that may happen to it, against a model.

The model is this: of each payment, the set of what was said and kept decides what the ledger shows
in the end (`ledger_by_hand`), unless an operator gave it back; nothing else decides anything.
"""

import asyncio
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, ClassVar, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from tests.support.chain import READERS, Backing, Chain, InMemory
from tests.support.cis_poster import NOON
from tests.support.intake import heard, incoming
from tests.support.ledger_by_hand import ledger_by_hand

from payment_intake.domain import Heard, Observation
from payment_intake.ports import Incoming

PAYMENTS = {
    "pi_1": ("A-1", 10_001, 250),
    "pi_2": ("A-1", 2_003, 0),
    "pi_3": ("A-2", 50_007, 333),
}
"""Account, what the ledger is to show, and the fee on top; two payments share an account."""
ROUNDS_MAX = 60
T = TypeVar("T")

_MINUTES = st.integers(0, 4)
_PARTS = st.sampled_from(["1", "2"])
_SHARES = st.sampled_from([0.1, 0.5, 1.0])
_WHATS = st.sampled_from(
    [Heard.CAPTURED] * 4
    + [Heard.PENDING, Heard.FAILED, Heard.CANCELLED, Heard.REFUNDED, Heard.REFUND_FAILED]
    + [Heard.FUNDS_WITHDRAWN, Heard.FUNDS_REINSTATED]
)
_NAMED_PARTS = {
    Heard.REFUND_FAILED: "re",
    Heard.FUNDS_WITHDRAWN: "dp",
    Heard.FUNDS_REINSTATED: "dp",
}
"""What happens to one part of a payment, and by which kind of name the processor calls it."""


def _said(name: str, what: Heard, minute: int, part: str, share: float) -> tuple[str, Observation]:
    account, net_cents, fee_cents = PAYMENTS[name]
    is_part = what in _NAMED_PARTS
    amount_cents = net_cents + fee_cents
    if is_part or what is Heard.REFUNDED:
        # Of a dispute and a refund the processor always says the same amount.
        amount_cents = int(amount_cents * (0.3 if is_part else share))
    return name, heard(
        what,
        references=(name, name.replace("pi", "ch")),
        at=NOON + timedelta(minutes=minute - 60),
        account_id=account,
        amount_cents=amount_cents,
        fee_cents=0 if is_part or what is Heard.REFUNDED else fee_cents,
        part=_part(what, minute, part),
    )


def _part(what: Heard, minute: int, part: str) -> str | None:
    if what is Heard.FAILED:
        # One attempt fails once: at one time, however often it is said.
        return f"ch_{minute}{part}"
    return f"{_NAMED_PARTS[what]}_{part}" if what in _NAMED_PARTS else None


SAID = st.builds(_said, st.sampled_from(sorted(PAYMENTS)), _WHATS, _MINUTES, _PARTS, _SHARES)
FAULTS = st.sampled_from(
    ["lost_before", "lost_after", "down", "defect", "stall_before", "stall_after"]
)


class ChainMachine(RuleBasedStateMachine):
    """Drives the chain; `teardown` mends everything, waits, and holds the books together."""

    CHAIN: ClassVar[type[Chain]] = Chain

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.chain: Chain | None = None
        self.kept: dict[str, list[Observation]] = {name: [] for name in PAYMENTS}
        self.events: dict[str, tuple[str, Incoming]] = {}
        self.unanswered: list[str] = []
        self.given_back: set[str] = set()

    def backing(self) -> Backing:
        return InMemory()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(coroutine)

    @initialize(post_pending=st.booleans())
    def begin(self, post_pending: bool) -> None:
        self.post_pending = post_pending
        self.chain = self.CHAIN(self.backing(), post_pending=post_pending)

    @rule(said=st.lists(SAID, min_size=1, max_size=4), breaks_off=st.booleans())
    def webhooks_come(self, said: list[tuple[str, Observation]], breaks_off: bool) -> None:
        names = []
        for name, observation in said:
            event_id = f"evt_{len(self.events)}"
            event = incoming(observation, event_id=event_id, body=event_id.encode())
            self.events[event_id] = (name, event)
            names.append(event_id)
        self._send(names, breaks_off=breaks_off)

    @rule(said=SAID)
    def a_webhook_comes_whose_answer_is_lost(self, said: tuple[str, Observation]) -> None:
        self.webhooks_come([said], breaks_off=False)
        self.unanswered.append(f"evt_{len(self.events) - 1}")

    @precondition(lambda self: self.events)
    @rule(data=st.data())
    def webhooks_come_again(self, data: st.DataObject) -> None:
        names = data.draw(st.lists(st.sampled_from(sorted(self.events)), min_size=1, max_size=4))
        self._send(names, breaks_off=False)

    @rule(name=st.sampled_from(sorted(READERS)), data=st.data())
    def records_are_read(self, name: str, data: st.DataObject) -> None:
        self.run(self.chain.collect())
        reader = self.chain.readers[name]
        records = data.draw(st.permutations(reader.waiting)) if reader.waiting else []
        count = data.draw(st.integers(0, len(records)))
        reader.waiting = list(records[count:])
        self.run(self.chain.read(name, records[:count]))

    @rule(name=st.sampled_from(sorted(READERS)), data=st.data())
    def records_are_read_again(self, name: str, data: st.DataObject) -> None:
        seen = self.chain.readers[name].seen
        if seen:
            again = data.draw(st.lists(st.sampled_from(range(len(seen))), min_size=1, max_size=3))
            self.run(self.chain.read(name, [seen[index] for index in again]))

    @rule(name=st.sampled_from(sorted(READERS)))
    def a_stream_is_lost(self, name: str) -> None:
        self.run(self.chain.collect())
        self.chain.readers[name].waiting.clear()

    @rule(fault=FAULTS)
    def the_next_call_will_fail(self, fault: str) -> None:
        self.chain.ledger.post_faults.append(fault)

    @rule()
    def the_next_question_will_fail(self) -> None:
        self.chain.ledger.find_faults.append("cis_timeout")

    @rule()
    def stalled_answers_arrive(self) -> None:
        self.chain.ledger.wake()
        self.run(self.chain.idle())

    @rule(is_killed=st.booleans())
    def another_process_takes_over(self, is_killed: bool) -> None:
        if is_killed:
            self.chain.ledger.forget()
        self.chain.start_poster()

    @rule(seconds=st.sampled_from([1.0, 6.0, 31.0, 601.0]))
    def time_passes(self, seconds: float) -> None:
        self.run(self.chain.pass_time(seconds))

    @rule(account=st.sampled_from(["A-1", "A-2"]), is_closed=st.booleans())
    def an_account_is_closed_or_opened(self, account: str, is_closed: bool) -> None:
        self.chain.ledger.refusals.pop(account, None)
        if is_closed:
            self.chain.ledger.refusals[account] = "account_closed"

    @rule(gives_back=st.booleans())
    def an_operator_decides(self, gives_back: bool) -> None:
        for suspended in self.run(self.chain.in_suspense())[:1]:
            about = {"posting_id": suspended.id, "operator": "ada", "note": "as the payer wants"}
            if gives_back and suspended.kind == "payment":
                self.given_back.add(suspended.reference)
                self.run(self.chain.suspense.give_back(**about))
            else:
                self.run(self.chain.suspense.release(**about, to_account=None))

    @invariant()
    def nothing_was_done_that_ought_not(self) -> None:
        assert self.chain is None or not self.chain.wrong, self.chain.wrong

    def teardown(self) -> None:
        try:
            if self.chain is not None:
                self.run(self._ends_well())
        finally:
            self.close()

    def close(self) -> None:
        while left := asyncio.all_tasks(self.loop):
            for task in left:
                task.cancel()
            self.run(_gathered(left))
        self.loop.close()

    def _send(self, names: list[str], *, breaks_off: bool) -> None:
        events = [self.events[name][1] for name in names]
        if not self.run(self.chain.takes(events, breaks_off=breaks_off)):
            self.unanswered += names
            return
        for name in names:
            payment, event = self.events[name]
            assert event.observation is not None
            self.kept[payment].append(event.observation)

    async def _ends_well(self) -> None:
        chain = self.chain
        chain.ledger.post_faults.clear()
        chain.ledger.find_faults.clear()
        chain.ledger.refusals.clear()
        chain.ledger.wake()
        for name in self.unanswered:
            payment, event = self.events[name]
            assert await chain.takes([event], breaks_off=False)
            self.kept[payment].append(event.observation)
        await self._settles()
        for name, (_, net_cents, _) in PAYMENTS.items():
            expected = ledger_by_hand(
                self.kept[name], net_cents=net_cents, post_pending=self.post_pending
            )
            expected = 0 if name in self.given_back else expected
            shown = chain.ledger.shows_cents(name)
            assert shown == expected, (
                f"{name} shows {shown}, which is not what was said: {expected}"
            )
            payments = [p for p in chain.ledger.journal if p.reference == name]
            assert sum(p.kind == "payment" for p in payments) <= 1, name

    async def _settles(self) -> None:
        for attempt in range(ROUNDS_MAX):
            await self.chain.collect()
            for name, reader in self.chain.readers.items():
                waiting, reader.waiting = reader.waiting, []
                await self.chain.read(name, waiting)
            for suspended in await self.chain.in_suspense():
                await self.chain.suspense.release(
                    posting_id=suspended.id, to_account=None, operator="ada", note="once more"
                )
            await self.chain.pass_time(31.0 if attempt < 10 else 3601.0)
            assert not self.chain.wrong, self.chain.wrong
            if attempt > 2 and not await self.chain.backing.left():
                return
        raise AssertionError(f"the chain does not end: {await self.chain.backing.left()}")


async def _gathered(tasks: set[asyncio.Task[Any]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)
