import asyncio
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

import pytest
from tests.support.cis_poster import (
    InMemoryPostings,
    Poster,
    Row,
    StillClock,
    StubCisGateway,
    a_posting,
    a_reversal,
)
from tests.support.lanes import NoLanes
from tests.support.turns import turns

from cis_poster.domain import Kind, Posting, Status
from cis_poster.usecases import ManageSuspense, SuspenseNotFoundError
from shared.errors import TransientError


class World:
    """A poster on fakes, with time in the test's hands."""

    def __init__(self, **options: object) -> None:
        self.clock = StillClock()
        self.cis = StubCisGateway()
        self.store = InMemoryPostings()
        self.poster = self.instance(store=self.store, **options)

    def instance(self, *, store: InMemoryPostings, **options: object) -> Poster:
        return Poster(
            postings=store,
            gateway=self.cis,
            clock=self.clock,
            monotonic=self.clock.monotonic,
            **options,  # type: ignore[arg-type]
        )

    async def take(self, *postings: Posting) -> None:
        await self.poster.post_payments(postings)
        await self.poster.idle()

    async def due(self, *, after_seconds: float = 0.0, limit: int = 500) -> int:
        self.clock.advance(after_seconds)
        found = await self.poster.post_due(now=self.clock(), limit=limit)
        await self.poster.idle()
        return found

    def statuses(self, *postings: Posting) -> list[Status]:
        return [self.store.status(posting) for posting in postings]


@pytest.fixture
def world() -> World:
    return World()


class TestPostPayments:
    async def test_posts_what_is_new_in_one_call_and_states_it(self, world: World) -> None:
        batch = [a_posting(account_id=f"A-{n}") for n in range(10)]
        await world.take(*batch)
        assert world.statuses(*batch) == [Status.POSTED] * 10
        assert [len(ids) for _, ids in world.cis.calls] == [10]
        assert world.poster.announced.types() == ["posting.posted"] * 10

    async def test_keeps_the_order_within_an_account(self, world: World) -> None:
        batch = [a_posting(account_id=f"A-{n % 3}") for n in range(30)]
        await world.take(*batch)
        for n in range(3):
            assert world.cis.posted(f"A-{n}") == [p.id for p in batch[n::3]]

    async def test_posts_a_fact_once_that_stands_twice_in_its_batch(self, world: World) -> None:
        first, second = a_posting(), a_posting()
        await world.take(first, second, first, second, first)
        assert world.cis.calls == [("post", (first.id, second.id))]
        assert world.poster.metrics.counts["new"] == 2
        assert world.poster.metrics.counts["duplicate"] == 3
        assert world.poster.metrics.counts["payment posted"] == 2

    async def test_states_a_settled_outcome_again_under_the_same_id(self, world: World) -> None:
        posting = a_posting()
        await world.take(posting)
        await world.take(posting)
        ids = world.poster.announced.ids()
        assert len(ids) == 2
        assert len(set(ids)) == 1
        assert len(world.cis.calls) == 1

    async def test_suspends_a_payment_of_no_account_and_sends_nothing(self, world: World) -> None:
        posting = a_posting(account_id=None)
        await world.take(posting)
        assert world.statuses(posting) == [Status.SUSPENDED]
        assert world.poster.announced.types() == ["posting.suspended"]
        assert world.cis.calls == []

    async def test_keeps_what_comes_while_the_breaker_is_open_and_sends_nothing(
        self, world: World
    ) -> None:
        open_breaker(world)
        posting = a_posting()
        await world.take(posting)
        assert world.statuses(posting) == [Status.DUE]
        assert world.cis.calls == []

    async def test_lets_a_failed_take_pass_to_who_waits_for_it(self, world: World) -> None:
        world.store.raises.append(TransientError("down"))
        with pytest.raises(TransientError):
            await world.take(a_posting())

    async def test_queues_behind_what_is_in_hand_of_the_account(self, world: World) -> None:
        first, second = a_posting(), a_posting()
        gate = hold_calls(world.cis)
        await world.poster.post_payments([first])
        await world.poster.post_payments([second])
        assert world.statuses(first, second) == [Status.ATTEMPTING] * 2
        gate.set()
        await world.poster.idle()
        assert world.cis.posted("A-1") == [first.id, second.id]

    async def test_waits_behind_what_another_instance_has_in_hand(self, world: World) -> None:
        other = InMemoryPostings(rows=world.store.rows)
        first, second = a_posting(), a_posting()
        await other.take([first], now=world.clock(), hold=False, lanes_held=NoLanes())
        await world.take(second)
        assert world.statuses(first, second) == [Status.ATTEMPTING, Status.DUE]
        assert world.cis.calls == []

    async def test_does_not_overtake_what_is_claimed_and_not_yet_in_its_lane(
        self, world: World
    ) -> None:
        """The lane holds the account, but not the last of what is unsettled of it."""
        first, second, third = a_posting(), a_posting(), a_posting()
        gate = hold_calls(world.cis)
        await world.poster.post_payments([first])
        other = InMemoryPostings(rows=world.store.rows)
        await other.take([second], now=world.clock(), hold=False, lanes_held=NoLanes())
        await world.poster.post_payments([third])
        gate.set()
        await world.poster.idle()
        assert world.cis.posted("A-1") == [first.id]
        assert world.statuses(third) == [Status.DUE]


class TestAttempting:
    async def test_asks_before_sending_again(self, world: World) -> None:
        world.cis.post_faults = ["lost_after"]
        posting = a_posting()
        await world.take(posting)
        assert world.statuses(posting) == [Status.UNKNOWN]
        assert await world.due(after_seconds=1) == 1
        assert [operation for operation, _ in world.cis.calls] == ["post", "find"]
        assert world.statuses(posting) == [Status.POSTED]
        assert len(world.cis.journal) == 1

    async def test_sends_again_what_the_cis_does_not_know(self, world: World) -> None:
        world.cis.post_faults = ["lost_before"]
        posting = a_posting()
        await world.take(posting)
        await world.due(after_seconds=1)
        assert [operation for operation, _ in world.cis.calls] == ["post", "find", "post"]
        assert world.statuses(posting) == [Status.POSTED]

    async def test_asks_again_while_no_answer_comes_and_sends_nothing(self, world: World) -> None:
        world.cis.post_faults = ["lost_after"]
        world.cis.find_faults = ["cis_timeout", "cis_timeout"]
        posting = a_posting()
        await world.take(posting)
        for _ in range(2):
            await world.due(after_seconds=60)
            assert world.statuses(posting) == [Status.UNKNOWN]
        await world.due(after_seconds=60)
        assert world.statuses(posting) == [Status.POSTED]
        assert [operation for operation, _ in world.cis.calls] == ["post", "find", "find", "find"]

    async def test_asks_alone(self, world: World) -> None:
        world.cis.post_faults = ["lost_after"]
        lost = [a_posting(account_id=f"A-{n}") for n in range(5)]
        await world.take(*lost)
        await world.due(after_seconds=1)
        assert sorted(len(ids) for operation, ids in world.cis.calls if operation == "find") == (
            [1] * 5
        )

    async def test_does_not_ask_about_what_was_refused_as_a_whole(self, world: World) -> None:
        world.cis.post_faults = ["down"]
        posting = a_posting()
        await world.take(posting)
        assert world.statuses(posting) == [Status.DUE]
        await world.due(after_seconds=1)
        assert [operation for operation, _ in world.cis.calls] == ["post", "post"]
        assert world.statuses(posting) == [Status.POSTED]

    async def test_stops_and_alarms_where_the_cis_holds_another_amount(self, world: World) -> None:
        posting, later = a_posting(), a_posting()
        world.cis.other_amounts[posting.id] = 2_600
        await world.take(posting, later)
        assert world.statuses(posting, later) == [Status.CONFLICTED, Status.POSTED]
        assert world.poster.metrics.counts["conflict"] == 1
        assert sorted(world.poster.announced.types()) == ["posting.posted", "posting.suspended"]
        assert await world.due(after_seconds=3600) == 0

    async def test_lets_later_postings_of_an_account_wait_behind_an_open_question(
        self, world: World
    ) -> None:
        world.cis.post_faults = ["lost_before"]
        first, later, other = a_posting(), a_posting(), a_posting(account_id="A-2")
        await world.take(first)
        await world.take(later, other)
        assert world.statuses(first, later, other) == [Status.UNKNOWN, Status.DUE, Status.POSTED]
        world.cis.find_faults = ["cis_timeout"]
        await world.due(after_seconds=2)
        assert world.statuses(first, later) == [Status.UNKNOWN, Status.DUE]
        await world.due(after_seconds=5)
        assert world.statuses(first, later) == [Status.POSTED] * 2
        assert world.cis.posted("A-1") == [first.id, later.id]

    async def test_lets_other_accounts_go_on_past_one_that_is_unavailable(
        self, world: World
    ) -> None:
        world.cis.unavailable["A-1"] = "batch_closed"
        bad = [a_posting(), a_posting()]
        good = [a_posting(account_id="A-2"), a_posting(account_id="A-3")]
        await world.take(bad[0], good[0], bad[1], good[1])
        assert world.statuses(*bad) == [Status.DUE] * 2
        assert world.statuses(*good) == [Status.POSTED] * 2
        del world.cis.unavailable["A-1"]
        await world.due(after_seconds=1)
        assert world.cis.posted("A-1") == [posting.id for posting in bad]

    async def test_does_not_take_one_unavailable_account_for_a_failure_of_the_cis(
        self, world: World
    ) -> None:
        world.cis.unavailable["A-0"] = "batch_closed"
        for _ in range(20):
            await world.take(a_posting(account_id="A-0"), a_posting(account_id="A-1"))
            await world.due(after_seconds=60)
        assert world.poster.breaker.state == "closed"
        assert len(world.cis.posted("A-1")) == 20

    async def test_opens_the_breaker_after_five_calls_without_an_answer(self, world: World) -> None:
        open_breaker(world)
        assert world.poster.breaker.state == "open"
        calls = len(world.cis.calls)
        assert await world.due() == 0
        assert len(world.cis.calls) == calls

    async def test_lets_one_probe_through_when_the_pause_is_over(self, world: World) -> None:
        waiting = open_breaker(world)
        gate = hold_calls(world.cis)
        calls = len(world.cis.calls)
        world.clock.advance(10)
        assert await world.poster.post_due(now=world.clock(), limit=500) == 1
        await turns()
        # While the probe travels nothing else is taken up, nor taken up only to be put back.
        assert [await world.poster.post_due(now=world.clock(), limit=500) for _ in range(5)] == (
            [0] * 5
        )
        assert len(world.cis.calls) == calls + 1
        gate.set()
        await world.poster.idle()
        assert world.poster.breaker.state == "closed"
        await world.due(after_seconds=10)
        assert world.statuses(*waiting) == [Status.POSTED] * len(waiting)

    async def test_does_not_stay_open_for_ever_after_a_probe_that_ended_in_a_defect(
        self, world: World
    ) -> None:
        waiting = open_breaker(world)
        world.cis.post_faults = ["defect"]
        await world.due(after_seconds=10)
        assert world.poster.breaker.state == "open"
        await world.due(after_seconds=40)
        await world.due(after_seconds=40)
        assert world.poster.breaker.state == "closed"
        assert world.statuses(*waiting) == [Status.POSTED] * len(waiting)

    async def test_does_not_send_what_its_lease_would_not_outlast(self) -> None:
        world = World(batch_size=1, connections=1)
        first, second = a_posting(), a_posting(account_id="A-2")

        async def slow(operation: str, postings: Sequence[Posting]) -> None:
            world.clock.advance(26)

        world.cis.before_call = slow
        await world.take(first, second)
        assert world.statuses(first, second) == [Status.POSTED, Status.DUE]
        assert [ids for _, ids in world.cis.calls] == [(first.id,)]

    async def test_needs_a_lease_for_both_calls_where_it_asks_first(self) -> None:
        world = World(batch_size=1, connections=1)
        world.cis.post_faults = ["lost_before"]
        posting = a_posting()
        await world.take(posting)
        world.clock.advance(1)
        attempts = await world.store.claim_due(now=world.clock(), limit=1)
        world.clock.advance(22)
        await world.poster.lanes.put(attempts, ticket=world.poster.lanes.ticket())
        await world.poster.idle()
        assert len(world.cis.calls) == 1
        assert world.statuses(posting) == [Status.UNKNOWN]

    async def test_leaves_to_the_recovery_what_a_failed_settle_could_not_write(
        self, world: World
    ) -> None:
        posting = a_posting()
        gate = hold_calls(world.cis)
        await world.poster.post_payments([posting])
        world.store.raises.append(ConnectionAbortedError("for longer than anybody waits"))
        gate.set()
        await world.poster.idle()
        assert world.statuses(posting) == [Status.ATTEMPTING]
        assert world.poster.metrics.counts["payment posted"] == 0
        await world.due(after_seconds=31)
        assert [operation for operation, _ in world.cis.calls] == ["post", "find"]
        assert world.statuses(posting) == [Status.POSTED]
        assert world.poster.metrics.counts["payment posted"] == 1

    async def test_says_once_why_a_posting_waits(self, world: World) -> None:
        world.cis.unavailable["A-1"] = "batch_closed"
        await world.take(a_posting())
        for _ in range(5):
            await world.due(after_seconds=60)
        assert world.poster.announced.types() == ["posting.deferred"]

    async def test_waits_longer_each_time_up_to_the_cap(self, world: World) -> None:
        world.cis.unavailable["A-1"] = "batch_closed"
        posting = a_posting()
        await world.take(posting)
        pauses = []
        for _ in range(9):
            due_at = world.store.rows[posting.id].due_at
            pauses.append((due_at - world.clock()).total_seconds())
            world.clock.now = due_at
            world.poster.breaker.succeeded()
            await world.due()
        steps = [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
        assert all(step / 2 <= pause <= step for step, pause in zip(steps, pauses, strict=True)), (
            pauses
        )


class TestReversals:
    async def test_go_behind_their_payment_in_one_batch(self, world: World) -> None:
        payment = a_posting()
        await world.take(payment, reversal := a_reversal(payment))
        await world.due()
        assert world.cis.posted("A-1") == [payment.id, reversal.id]
        assert world.poster.announced.types() == ["posting.posted", "posting.reversed"]

    async def test_wait_for_a_payment_that_has_not_come(self, world: World) -> None:
        payment = a_posting()
        reversal = a_reversal(payment)
        await world.take(reversal)
        assert world.statuses(reversal) == [Status.WAITING]
        assert world.cis.calls == []
        await world.take(payment)
        assert world.statuses(payment, reversal) == [Status.POSTED, Status.DUE]
        await world.due()
        assert world.cis.posted("A-1") == [payment.id, reversal.id]

    async def test_hold_up_nothing_while_they_wait(self, world: World) -> None:
        reversal, payment = a_reversal(a_posting()), a_posting()
        await world.take(reversal, payment)
        assert world.statuses(reversal, payment) == [Status.WAITING, Status.POSTED]

    async def test_wait_for_it_while_the_breaker_is_open_too(self, world: World) -> None:
        open_breaker(world)
        await world.take(reversal := a_reversal(a_posting(account_id="A-9")))
        assert world.statuses(reversal) == [Status.WAITING]

    async def test_are_suspended_where_the_cis_has_lost_their_payment(self, world: World) -> None:
        payment = a_posting()
        await world.take(payment)
        world.cis.ledger.clear()
        await world.take(reversal := a_reversal(payment))
        assert world.statuses(reversal) == [Status.SUSPENDED]
        assert await world.store.wake_waiting(now=world.clock(), limit=100) == 0

    async def test_follow_their_payment_to_the_account_it_was_released_to(
        self, world: World
    ) -> None:
        world.cis.refusals["A-1"] = "account_unknown"
        payment = a_posting()
        await world.take(payment, reversal := a_reversal(payment))
        assert world.statuses(payment, reversal) == [Status.SUSPENDED, Status.WAITING]
        await suspense(world).release(
            posting_id=payment.id, to_account="A-2", operator="kim", note="moved"
        )
        await world.due()
        await world.due()
        assert world.cis.posted("A-2") == [payment.id, reversal.id]

    async def test_without_an_account_follow_their_payment(self, world: World) -> None:
        payment = a_posting(account_id=None)
        await world.take(payment, reversal := a_reversal(payment))
        assert world.statuses(payment, reversal) == [Status.SUSPENDED, Status.WAITING]
        await suspense(world).release(
            posting_id=payment.id, to_account="A-2", operator="kim", note="found it"
        )
        await world.due()
        await world.due()
        assert world.cis.posted("A-2") == [payment.id, reversal.id]

    async def test_of_a_payment_that_was_returned_are_returned_too(self, world: World) -> None:
        world.cis.refusals["A-1"] = "account_closed"
        payment = a_posting()
        await world.take(payment, early := a_reversal(payment, amount_cents=100))
        await suspense(world).give_back(posting_id=payment.id, operator="kim", note="refunded")
        # The refund that the operator made comes back as a reversal of its own.
        await world.take(late := a_reversal(payment, amount_cents=2_400))
        await world.store.wake_waiting(now=world.clock(), limit=100)
        assert world.statuses(payment, early, late) == [Status.RETURNED] * 3
        assert len(world.cis.journal) == 0

    async def test_are_posted_before_their_reinstatement(self, world: World) -> None:
        payment = a_posting()
        reversal = a_reversal(payment)
        again = a_posting(kind=Kind.REINSTATEMENT, of=payment)
        await world.take(payment, reversal, again)
        assert world.statuses(reversal, again) == [Status.DUE] * 2
        await world.due(after_seconds=1)
        assert [posting.id for posting in world.cis.journal] == [payment.id, reversal.id, again.id]
        assert world.statuses(payment, reversal, again) == [Status.POSTED] * 3


class TestManageSuspense:
    async def test_lists_what_was_refused_with_its_reason(self, world: World) -> None:
        world.cis.refusals["A-1"] = "cash_only"
        posting = a_posting()
        await world.take(posting)
        [found] = await suspense(world).list(limit=10)
        assert (found.id, found.reason, found.status) == (posting.id, "cash_only", "suspended")

    async def test_counts_each_suspension_of_a_posting_as_a_fact_of_its_own(
        self, world: World
    ) -> None:
        world.cis.refusals["A-1"] = "cash_only"
        posting = a_posting()
        await world.take(posting)
        await suspense(world).release(
            posting_id=posting.id, to_account=None, operator="kim", note="again"
        )
        await world.due()
        assert world.poster.announced.types() == ["posting.suspended"] * 2
        assert len(set(world.poster.announced.ids())) == 2

    async def test_does_not_release_what_is_not_in_suspense(self, world: World) -> None:
        posting = a_posting()
        await world.take(posting)
        manage = suspense(world)
        for key in (posting.id, UUID(int=1)):
            with pytest.raises(SuspenseNotFoundError):
                await manage.release(posting_id=key, to_account="A-2", operator="kim", note="x")
            with pytest.raises(SuspenseNotFoundError):
                await manage.give_back(posting_id=key, operator="kim", note="x")

    async def test_needs_an_account_to_release_to(self, world: World) -> None:
        posting = a_posting(account_id=None)
        await world.take(posting)
        with pytest.raises(SuspenseNotFoundError):
            await suspense(world).release(
                posting_id=posting.id, to_account=None, operator="kim", note="x"
            )


class TestShutdown:
    async def test_gives_back_what_was_not_sent_and_finishes_what_was(self) -> None:
        world = World(connections=1, batch_size=1)
        gate = hold_calls(world.cis)
        batch = [a_posting(account_id=f"A-{n}") for n in range(4)]
        await world.poster.post_payments(batch)
        closing = asyncio.create_task(world.poster.lanes.close())
        for _ in range(5):
            await asyncio.sleep(0)
        gate.set()
        await closing
        assert world.statuses(*batch) == [Status.POSTED, *[Status.DUE] * 3]

    async def test_gives_back_what_still_comes(self, world: World) -> None:
        await world.poster.lanes.close()
        posting = a_posting()
        await world.take(posting)
        assert world.statuses(posting) == [Status.DUE]
        assert await world.due(after_seconds=1) == 0


def suspense(world: World) -> ManageSuspense:
    return ManageSuspense(postings=world.store, announce=world.poster.announced, clock=world.clock)


def hold_calls(cis: StubCisGateway) -> asyncio.Event:
    gate = asyncio.Event()

    async def wait(operation: str, postings: Sequence[Posting]) -> None:
        await gate.wait()

    cis.before_call = wait
    return gate


def open_breaker(world: World) -> list[Posting]:
    """Let five calls fail; return the postings that they were about."""
    for n in range(5):
        world.poster.breaker.failed()
        assert world.poster.breaker.state == ("open" if n == 4 else "closed")
    held = [a_posting(account_id=f"B-{n}") for n in range(3)]
    for posting in held:
        world.store.rows[posting.id] = Row(
            posting=posting,
            seq=len(world.store.rows),
            status=Status.DUE,
            due_at=world.clock() - timedelta(seconds=1),
        )
    return held
