"""The scenarios of `Postings`, in memory and on PostgreSQL."""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta
from uuid import UUID

import pytest
from tests.support.backends import TestDatabase
from tests.support.cis_poster import (
    NOON,
    InMemoryPostings,
    a_posting,
    a_reversal,
)
from tests.support.lanes import InHand
from tests.support.poster_database import PosterDatabase, migrate_poster

from cis_poster.domain import (
    HELD_BACK,
    Answer,
    Attempt,
    Kind,
    Outcome,
    Posting,
    decide,
    next_status,
    states_deferral,
)
from cis_poster.ports import Postings, Settlement, Taken
from shared.outbox.table import OutboxRow

Store = Callable[[], Postings]
"""Makes one more instance on the same rows."""


@pytest.fixture(scope="module")
async def postgres_rows(database: TestDatabase) -> AsyncIterator[PosterDatabase]:
    migrate_poster(database)
    found = PosterDatabase(database)
    yield found
    await found.close()


@pytest.fixture(params=["memory", "postgres"])
async def store(request: pytest.FixtureRequest, postgres_rows: PosterDatabase) -> Store:
    if request.param == "memory":
        first = InMemoryPostings()
        return lambda: InMemoryPostings(rows=first.rows, outbox=first.outbox)
    await postgres_rows.empty()
    return postgres_rows.store


async def take(
    store: Postings,
    *postings: Posting,
    now: datetime = NOON,
    hold: bool = False,
    held: Sequence[Attempt] = (),
) -> Taken:
    lanes = InHand(*held, lane_of=lambda attempt: attempt.posting.account_id)
    return await store.take(postings, now=now, hold=hold, lanes_held=lanes)


def a_settlement(attempt: Attempt, answer: Answer, *, at: datetime = NOON) -> Settlement:
    decision = decide(posting=attempt.posting, answer=answer)
    return Settlement(
        attempt=attempt,
        answer=answer,
        status=next_status(attempt=attempt, answer=answer, decision=decision),
        reason=decision.reason,
        due_at=at + timedelta(seconds=1),
        at=at,
        duration_ms=3,
        states_deferral=states_deferral(attempt=attempt, decision=decision),
    )


def applied(attempt: Attempt, *, balance_cents: int = -2_500) -> Answer:
    return Answer(
        outcome=Outcome.APPLIED,
        cis_reference=f"CIS-{attempt.posting.id.hex[:6]}",
        balance_cents=balance_cents,
        posted_at=NOON + timedelta(seconds=1, microseconds=123_456),
        amount_cents=attempt.posting.amount_cents,
        account_id=attempt.posting.account_id,
    )


async def settle(store: Postings, *pairs: tuple[Attempt, Answer]) -> Sequence[OutboxRow]:
    return await store.settle([a_settlement(attempt, answer) for attempt, answer in pairs])


async def post(store: Postings, *postings: Posting) -> Sequence[OutboxRow]:
    taken = await take(store, *postings)
    return await settle(store, *((attempt, applied(attempt)) for attempt in taken.attempts))


async def suspend(store: Postings, posting: Posting) -> Sequence[OutboxRow]:
    [attempt] = (await take(store, posting)).attempts
    return await settle(store, (attempt, Answer(outcome=Outcome.REFUSED, reason="cash_only")))


def types(rows: Sequence[OutboxRow]) -> list[str]:
    return [dict(row.record.headers)["ce_type"].decode() for row in rows]


def ids(attempts: Sequence[Attempt]) -> list[UUID]:
    return [attempt.posting.id for attempt in attempts]


def later(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


class TestTake:
    async def test_leases_what_is_new_in_its_order(self, store: Store) -> None:
        batch = [a_posting(account_id=f"A-{n % 4}") for n in range(12)]
        taken = await take(store(), *batch)
        assert ids(taken.attempts) == [posting.id for posting in batch]
        assert (taken.inserted, taken.duplicates, list(taken.rows)) == (12, 0, [])
        first = taken.attempts[0]
        assert (first.attempts, first.ask_first, first.suspensions) == (0, False, 0)
        assert first.leased_until == later(30)
        assert await store().claim_due(now=later(29), limit=100) == []

    async def test_keeps_every_field(self, store: Store) -> None:
        posting = replace(
            a_posting(traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01"),
            currency="EUR",
            effective_date=date(2025, 12, 31),
            reference="pi_ñ",
            amount_cents=100_000_000,
        )
        await take(store(), posting, hold=True)
        [attempt] = await store().claim_due(now=NOON, limit=10)
        assert attempt.posting == posting

    async def test_takes_a_key_once(self, store: Store) -> None:
        posting, other = a_posting(), a_posting()
        await take(store(), posting)
        taken = await take(store(), posting, other, held=())
        assert (taken.inserted, taken.duplicates) == (1, 1)
        assert posting.id not in ids(taken.attempts)

    async def test_leases_nothing_when_told_to_hold(self, store: Store) -> None:
        posting = a_posting()
        taken = await take(store(), posting, hold=True)
        assert list(taken.attempts) == []
        [attempt] = await store().claim_due(now=NOON, limit=10)
        assert (attempt.posting.id, attempt.ask_first) == (posting.id, False)

    async def test_says_why_it_holds_back_once(self, store: Store) -> None:
        taken = await take(store(), a_posting(), hold=True)
        assert types(taken.rows) == ["posting.deferred"]
        [attempt] = await store().claim_due(now=NOON, limit=10)
        refused = Answer(outcome=Outcome.UNAVAILABLE, reason="cis_unavailable")
        assert not a_settlement(attempt, refused).states_deferral

    async def test_suspends_a_payment_of_no_account_at_once(self, store: Store) -> None:
        posting = a_posting(account_id=None)
        taken = await take(store(), posting)
        assert list(taken.attempts) == []
        assert types(taken.rows) == ["posting.suspended"]
        [suspended] = await store().suspense(limit=10)
        assert (suspended.id, suspended.reason) == (posting.id, "account_missing")

    async def test_queues_behind_what_is_in_hand_of_this_process_only(self, store: Store) -> None:
        mine, yours = store(), store()
        [first] = (await take(mine, a_posting())).attempts
        [second] = (await take(mine, a_posting(), held=[first])).attempts
        assert ids((await take(mine, a_posting(), held=[first])).attempts) == []
        assert ids((await take(yours, a_posting())).attempts) == []
        assert second.leased_until == later(30)

    async def test_queues_behind_all_of_it_and_not_only_behind_the_last(self, store: Store) -> None:
        mine = store()
        [first] = (await take(mine, a_posting())).attempts
        [second] = (await take(mine, a_posting(), held=[first])).attempts
        assert ids((await take(mine, a_posting(), held=[second])).attempts) == []

    async def test_lets_other_accounts_of_the_batch_go_past_a_blocked_one(
        self, store: Store
    ) -> None:
        await take(store(), a_posting())
        blocked, free = a_posting(), a_posting(account_id="A-2")
        assert ids((await take(store(), blocked, free)).attempts) == [free.id]
        # It comes due soon, not only when the lease before it has run out.
        await settle_all(store(), later(1))
        assert blocked.id in ids(await store().claim_due(now=later(31), limit=10))

    async def test_states_what_is_settled_again_with_the_same_bytes(self, store: Store) -> None:
        one, payment, bad = store(), a_posting(traceparent=None), a_posting(account_id="A-2")
        missing = a_posting(account_id=None)
        said = [*await post(one, payment), *await suspend(one, bad)]
        said += (await take(one, missing)).rows
        said += await post(one, reversal := a_reversal(payment))
        again = await take(store(), payment, bad, missing, reversal)
        assert (again.inserted, again.duplicates, list(again.attempts)) == (0, 4, [])
        assert {row.record for row in again.rows} == {row.record for row in said}
        assert sorted(types(again.rows)) == [
            *("posting.posted", "posting.reversed", "posting.suspended", "posting.suspended")
        ]

    async def test_says_nothing_of_what_is_not_settled(self, store: Store) -> None:
        posting = a_posting()
        await take(store(), posting)
        assert list((await take(store(), posting)).rows) == []


async def settle_all(store: Postings, now: datetime) -> None:
    attempts = await store.claim_due(now=later(31), limit=1)
    await settle(store, *((attempt, applied(attempt)) for attempt in attempts))


class TestReversals:
    async def test_are_leased_when_their_payment_is_posted(self, store: Store) -> None:
        payment = a_posting()
        await post(store(), payment)
        reversal = a_reversal(payment)
        assert ids((await take(store(), reversal)).attempts) == [reversal.id]

    @pytest.mark.parametrize("hold", [True, False])
    async def test_wait_until_their_payment_is_posted(self, store: Store, hold: bool) -> None:
        payment = a_posting()
        reversal = a_reversal(payment)
        assert list((await take(store(), reversal, hold=hold)).attempts) == []
        mine = store()
        [attempt] = (await take(mine, payment)).attempts
        assert await store().claim_due(now=later(10), limit=10) == []
        await settle(mine, (attempt, applied(attempt)))
        assert ids(await store().claim_due(now=later(10), limit=10)) == [reversal.id]

    async def test_wait_with_a_payment_of_the_same_batch(self, store: Store) -> None:
        payment = a_posting()
        mine = store()
        taken = await take(mine, payment, reversal := a_reversal(payment))
        assert ids(taken.attempts) == [payment.id]
        await settle(mine, (taken.attempts[0], applied(taken.attempts[0])))
        assert ids(await store().claim_due(now=NOON, limit=10)) == [reversal.id]

    async def test_are_not_overtaken_when_they_come_due_behind_what_is_in_hand(
        self, store: Store
    ) -> None:
        """A payment that was free while they waited is the last of its account, and in hand."""
        mine, payment = store(), a_posting()
        [attempt] = (await take(mine, payment)).attempts
        await take(mine, reversal := a_reversal(payment), held=[attempt])
        [other] = (await take(mine, a_posting(), held=[attempt])).attempts
        await settle(mine, (attempt, applied(attempt)))
        reinstatement = replace(a_reversal(payment), kind=Kind.REINSTATEMENT)
        assert ids((await take(mine, reinstatement, held=[other])).attempts) == []
        await settle(mine, (other, applied(other)))
        claimed = await mine.claim_due(now=later(1), limit=10)
        assert ids(claimed) == [reversal.id, reinstatement.id]

    async def test_are_found_by_the_job_when_the_payment_was_posted_meanwhile(
        self, store: Store
    ) -> None:
        payment = a_posting()
        await suspend(store(), payment)
        await take(store(), reversal := a_reversal(payment))
        assert await store().wake_waiting(now=NOON, limit=10) == 0
        await release(store(), payment, to_account="A-2")
        mine = store()
        [attempt] = await mine.claim_due(now=NOON, limit=10)
        await settle(mine, (attempt, applied(attempt)))
        # Stated on the old account, after its payment went to the new one.
        await take(store(), late := a_reversal(payment, amount_cents=1))
        assert await store().wake_waiting(now=NOON, limit=10) == 1
        claimed = await store().claim_due(now=NOON, limit=10)
        assert ids(claimed) == [reversal.id, late.id]
        assert {attempt.posting.account_id for attempt in claimed} == {"A-2"}

    async def test_without_an_account_wait_for_their_payment(self, store: Store) -> None:
        payment = a_posting(account_id=None)
        taken = await take(store(), payment, a_reversal(payment))
        assert types(taken.rows) == ["posting.suspended"]
        assert len(await store().suspense(limit=10)) == 1

    async def test_are_returned_with_their_payment_and_after_it(self, store: Store) -> None:
        payment = a_posting()
        await suspend(store(), payment)
        await take(store(), early := a_reversal(payment, amount_cents=1))
        rows = await give_back(store(), payment)
        assert rows is not None
        assert types(rows) == ["posting.returned"] * 2
        await take(store(), late := a_reversal(payment, amount_cents=2))
        assert await store().wake_waiting(now=NOON, limit=10) == 1
        said = (await take(store(), payment, early, late)).rows
        assert types(said) == ["posting.returned"] * 3

    async def test_that_cannot_be_decided_keep_no_other_waiting(self, store: Store) -> None:
        for n in range(5):
            await take(store(), a_reversal(a_posting(account_id=f"B-{n}")))
        payment = a_posting()
        await suspend(store(), payment)
        await take(store(), a_reversal(payment))
        await give_back(store(), payment)
        await take(store(), a_reversal(payment, amount_cents=1))
        assert await store().wake_waiting(now=NOON, limit=1) == 1


class TestClaimDue:
    async def test_takes_the_oldest_up_to_the_limit_in_order(self, store: Store) -> None:
        batch = [a_posting(account_id=f"A-{n % 3}") for n in range(9)]
        await take(store(), *batch, hold=True)
        mine = store()
        assert ids(await mine.claim_due(now=NOON, limit=4)) == [p.id for p in batch[:4]]

    async def test_leaves_what_stands_behind_something_unsettled(self, store: Store) -> None:
        batch = [a_posting() for _ in range(3)] + [a_posting(account_id="A-2")]
        await take(store(), *batch, hold=True)
        assert ids(await store().claim_due(now=NOON, limit=1)) == [batch[0].id]
        assert ids(await store().claim_due(now=NOON, limit=10)) == [batch[3].id]

    async def test_gives_two_instances_different_postings(self, store: Store) -> None:
        batch = [a_posting(account_id=f"A-{n}") for n in range(6)]
        await take(store(), *batch, hold=True)
        first = await store().claim_due(now=NOON, limit=3)
        second = await store().claim_due(now=NOON, limit=10)
        assert ids(first) + ids(second) == [posting.id for posting in batch]

    async def test_asks_first_about_what_a_lapsed_lease_has_left(self, store: Store) -> None:
        posting = a_posting()
        await take(store(), posting)
        [attempt] = await store().claim_due(now=later(31), limit=10)
        assert (attempt.posting.id, attempt.ask_first) == (posting.id, True)

    async def test_looks_past_a_long_queue_behind_one_that_is_not_due(self, store: Store) -> None:
        """With a limit of one, as while the breaker is half open."""
        mine = store()
        [head] = (await take(mine, a_posting())).attempts
        await take(store(), *(a_posting() for _ in range(700)))
        other = a_posting(account_id="A-2")
        await take(store(), other, now=later(0.2), hold=True)
        await settle(mine, (head, Answer(outcome=Outcome.LOST, reason="cis_timeout")))
        assert ids(await store().claim_due(now=later(0.9), limit=1)) == [other.id]
        # The head comes due before what stands behind it, and takes it along.
        [claimed] = await store().claim_due(now=later(1), limit=1)
        assert claimed.posting.id == head.posting.id

    async def test_carries_what_is_known_of_earlier_tries(self, store: Store) -> None:
        mine = store()
        [first] = (await take(mine, a_posting())).attempts
        await settle(mine, (first, Answer(outcome=Outcome.LOST, reason="cis_timeout")))
        [second] = await mine.claim_due(now=later(5), limit=10)
        assert (second.attempts, second.last_reason, second.ask_first) == (1, "cis_timeout", True)


class TestRelease:
    async def test_gives_back_and_keeps_an_open_question_open(self, store: Store) -> None:
        mine = store()
        [first] = (await take(mine, a_posting())).attempts
        await mine.release([first], now=later(1))
        [again] = await store().claim_due(now=later(1), limit=10)
        assert not again.ask_first
        [lapsed] = await mine.claim_due(now=later(60), limit=10)
        await mine.release([lapsed], now=later(60))
        [asked] = await store().claim_due(now=later(60), limit=10)
        assert asked.ask_first

    async def test_gives_back_nothing_of_another_instance(self, store: Store) -> None:
        mine, yours = store(), store()
        [attempt] = (await take(mine, a_posting())).attempts
        await yours.release([attempt], now=NOON)
        assert await store().claim_due(now=later(1), limit=10) == []


class TestSettle:
    async def test_writes_outcomes_and_states_them(self, store: Store) -> None:
        mine = store()
        attempts = (await take(mine, *(a_posting(account_id=f"A-{n}") for n in range(5)))).attempts
        rows = await settle(
            mine,
            (attempts[0], applied(attempts[0])),
            (attempts[1], Answer(outcome=Outcome.REFUSED, reason="account_closed")),
            (attempts[2], Answer(outcome=Outcome.CONFLICT, amount_cents=1)),
            (attempts[3], Answer(outcome=Outcome.LOST, reason="cis_timeout")),
            (attempts[4], HELD_BACK),
        )
        assert types(rows) == [
            *("posting.posted", "posting.suspended", "posting.suspended", "posting.deferred")
        ]
        assert [s.status for s in await store().suspense(limit=10)] == ["suspended", "conflicted"]
        due = await store().claim_due(now=later(2), limit=10)
        assert [(a.posting.id, a.ask_first) for a in due] == [
            (attempts[3].posting.id, True),
            (attempts[4].posting.id, False),
        ]

    async def test_writes_nothing_that_is_no_longer_its_own(self, store: Store) -> None:
        mine, yours = store(), store()
        [attempt] = (await take(mine, a_posting())).attempts
        [lapsed] = await yours.claim_due(now=later(31), limit=10)
        refused = Answer(outcome=Outcome.REFUSED, reason="late")
        assert list(await settle(mine, (attempt, refused))) == []
        assert types(await settle(yours, (lapsed, applied(lapsed)))) == ["posting.posted"]

    async def test_states_an_outcome_once(self, store: Store) -> None:
        mine = store()
        [attempt] = (await take(mine, a_posting())).attempts
        assert len(await settle(mine, (attempt, applied(attempt)))) == 1
        assert list(await settle(mine, (attempt, applied(attempt)))) == []


class TestSuspense:
    async def test_is_listed_oldest_first(self, store: Store) -> None:
        bad = [a_posting(account_id=f"A-{n}") for n in range(3)]
        for n, posting in enumerate(bad):
            mine = store()
            [attempt] = (await take(mine, posting)).attempts
            answer = Answer(outcome=Outcome.REFUSED, reason="cash_only")
            await mine.settle([a_settlement(attempt, answer, at=later(n))])
        found = await store().suspense(limit=2)
        assert [each.id for each in found] == [posting.id for posting in bad[:2]]
        assert found[1].suspended_at == later(1)

    async def test_is_listed_in_order_of_arrival_where_it_came_in_one_moment(
        self, store: Store
    ) -> None:
        bad = [a_posting(account_id=f"A-{n}") for n in range(3)]
        mine = store()
        attempts = (await take(mine, *bad)).attempts
        answer = Answer(outcome=Outcome.REFUSED, reason="cash_only")
        for attempt in reversed(attempts):
            await settle(mine, (attempt, answer))
        found = await store().suspense(limit=3)
        assert [each.id for each in found] == [posting.id for posting in bad]

    async def test_is_released_to_an_account(self, store: Store) -> None:
        posting = a_posting()
        await suspend(store(), posting)
        assert await release(store(), posting, to_account="A-2")
        assert not await release(store(), posting, to_account="A-2")
        [attempt] = await store().claim_due(now=NOON, limit=10)
        assert attempt.posting == replace(posting, account_id="A-2")
        assert (attempt.ask_first, attempt.suspensions) == (False, 1)

    async def test_needs_an_account_to_be_released_to(self, store: Store) -> None:
        posting = a_posting(account_id=None)
        await take(store(), posting)
        assert not await release(store(), posting, to_account=None)
        assert await release(store(), posting, to_account="A-1")

    async def test_is_returned_for_good(self, store: Store) -> None:
        posting = a_posting()
        await suspend(store(), posting)
        rows = await give_back(store(), posting)
        assert rows is not None
        assert types(rows) == ["posting.returned"]
        assert await give_back(store(), posting) is None
        assert not await release(store(), posting, to_account="A-2")
        assert types((await take(store(), posting)).rows) == ["posting.returned"]

    async def test_does_not_hold_what_is_posted_or_unknown_to_it(self, store: Store) -> None:
        await post(store(), posting := a_posting())
        for key in (posting, a_posting()):
            assert not await release(store(), key, to_account="A-2")
            assert await give_back(store(), key) is None

    async def test_closes_no_reversal_of_a_posted_payment_with_another_one(
        self, store: Store
    ) -> None:
        payment = a_posting()
        await post(store(), payment)
        await suspend(store(), first := a_reversal(payment))
        await take(store(), again := a_posting(of=payment, kind=Kind.REINSTATEMENT))
        rows = await give_back(store(), first)
        assert rows is not None
        assert len(rows) == 1
        [left] = await store().claim_due(now=later(31), limit=10)
        assert left.posting.id == again.id


class TestBacklog:
    async def test_counts_what_is_not_settled_and_its_age(self, store: Store) -> None:
        mine = store()
        await take(mine, a_posting(), a_posting(account_id="A-2"), hold=True)
        await mine.claim_due(now=NOON, limit=1)
        found = {status: (count, age) for status, count, age in await mine.backlog(now=later(90))}
        assert found == {"attempting": (1, 90.0), "due": (1, 90.0), "unknown": (0, 0.0)}


async def release(store: Postings, posting: Posting, *, to_account: str | None) -> bool:
    return await store.release_suspended(
        posting_id=posting.id, to_account=to_account, operator="kim", note="found", now=NOON
    )


async def give_back(store: Postings, posting: Posting) -> Sequence[OutboxRow] | None:
    return await store.return_suspended(
        posting_id=posting.id, operator="kim", note="refunded", now=NOON
    )
