"""Exactly once in effect, and in order, on the real PostgreSQL and the reference CIS."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import uuid4

import asyncpg
import pytest
from tests.support.backends import TestDatabase
from tests.support.cis_poster import CountedMetrics, Poster, a_posting, a_reversal
from tests.support.lanes import NoLanes
from tests.support.poster_database import PosterDatabase, migrate_poster
from tests.support.reference_cis import API_KEY, ReferenceCis, running_cis

from cis_poster.adapters.cis_http import HttpCisGateway
from cis_poster.domain import TRANSITIONS, Answer, Attempt, Outcome, Posting, Status
from cis_poster.ports import Settlement
from cis_poster.usecases import ManageSuspense
from shared.clock import utc_now

WATCH_TRANSITIONS = """
    CREATE TABLE cis_poster.seen (n bigserial, tx xid8, id uuid, before text, after text);
    CREATE FUNCTION cis_poster.see() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
    BEGIN
        INSERT INTO cis_poster.seen (tx, id, before, after) VALUES (
            pg_current_xact_id(), NEW.id,
            CASE WHEN TG_OP = 'UPDATE' THEN OLD.status END, NEW.status);
        RETURN NULL;
    END $$;
    CREATE TRIGGER see AFTER INSERT OR UPDATE ON cis_poster.postings
        FOR EACH ROW EXECUTE FUNCTION cis_poster.see();
"""
# What one transaction made of a posting, however many statements it took.
SEEN_TRANSITIONS = """
    SELECT DISTINCT (array_agg(before ORDER BY n))[1], (array_agg(after ORDER BY n DESC))[1]
    FROM cis_poster.seen GROUP BY tx, id
"""


@pytest.fixture(scope="module")
async def rows(database: TestDatabase) -> AsyncIterator[PosterDatabase]:
    migrate_poster(database)
    found = PosterDatabase(database)
    await found.execute(WATCH_TRANSITIONS)
    yield found
    seen = {(row[0], row[1]) for row in await found.fetch(SEEN_TRANSITIONS)}
    await found.close()
    assert {pair for pair in seen if pair[0] != pair[1]} <= set(TRANSITIONS), seen


@pytest.fixture(scope="module")
def cis(database: TestDatabase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReferenceCis]:
    with running_cis(database=database, directory=tmp_path_factory.mktemp("cis")) as cis:
        yield cis


@dataclass
class World:
    rows: PosterDatabase
    cis: ReferenceCis
    instances: list[Poster]
    gateways: list[HttpCisGateway]

    def instance(
        self, *, lease_seconds: float = 30.0, timeout_seconds: float = 0.5, **options: object
    ) -> Poster:
        """One more instance of the service's use cases."""
        gateway = HttpCisGateway(
            base_url=self.cis.url,
            api_key=API_KEY,
            timeout_seconds=timeout_seconds,
            connections_max=16,
            metrics=CountedMetrics(),
        )
        self.gateways.append(gateway)
        settings = {"retry_initial_seconds": 0.05, "pause_seconds": 0.1} | options
        poster = self.rows.poster(
            gateway=gateway,
            clock=utc_now,
            monotonic=time.monotonic,
            lease_seconds=lease_seconds,
            call_seconds_max=timeout_seconds,
            **settings,
        )
        self.instances.append(poster)
        return poster

    def accounts(self, count: int, **members: object) -> list[str]:
        names = [f"A-{uuid4().hex[:10]}" for _ in range(count)]
        self.cis.open_accounts(names, **members)
        return names

    async def settled(
        self, *posters: Poster, within_seconds: float = 15.0, leaving: int = 0
    ) -> float:
        """Run the recovery job of these instances until nothing is unsettled; return how long."""
        began = time.monotonic()
        async with recovering(*posters):
            await eventually(lambda: self._count_unsettled(leaving), within_seconds=within_seconds)
        return time.monotonic() - began

    async def _count_unsettled(self, leaving: int) -> bool:
        return await self.rows.count("status IN ('due', 'attempting', 'unknown')") <= leaving


@pytest.fixture
async def world(rows: PosterDatabase, cis: ReferenceCis) -> AsyncIterator[World]:
    await rows.empty()
    world = World(rows=rows, cis=cis, instances=[], gateways=[])
    yield world
    cis.switch()
    for poster in world.instances:
        await poster.lanes.close()
        await poster.settler.drain()
    for gateway in world.gateways:
        await gateway.close()
    assert cis.is_proven()


@asynccontextmanager
async def recovering(*posters: Poster) -> AsyncIterator[None]:
    async def recover(poster: Poster) -> None:
        while True:
            if not await poster.post_due(now=utc_now(), limit=500):
                await asyncio.sleep(0.05)
            await poster.postings.wake_waiting(now=utc_now(), limit=500)

    tasks = [asyncio.create_task(recover(poster)) for poster in posters]
    yield
    for task in tasks:
        task.cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(each, asyncio.CancelledError) for each in ended), ended


async def eventually(holds: Callable[[], Awaitable[bool]], *, within_seconds: float = 10.0) -> None:
    deadline = time.monotonic() + within_seconds
    while not await holds():
        assert time.monotonic() < deadline, f"did not come true in {within_seconds:g} s"
        await asyncio.sleep(0.02)


def assert_posted_once_in_order(cis: ReferenceCis, accepted: Sequence[Posting]) -> None:
    """The CIS's own journal against the order of acceptance, account by account."""
    wanted: dict[str, list[str]] = {}
    for posting in accepted:
        wanted.setdefault(posting.account_id or "", []).append(str(posting.id))
    found: dict[str, list[str]] = {}
    for line in cis.journal():
        if line["account"] in wanted:
            found.setdefault(line["account"], []).append(line["key"])
    assert found == wanted


class TestExactlyOnce:
    async def test_holds_when_two_instances_take_the_same_batch_at_once(self, world: World) -> None:
        accounts = world.accounts(20)
        batch = [a_posting(account_id=accounts[n % 20]) for n in range(200)]
        one, two = world.instance(), world.instance()
        await asyncio.gather(one.post_payments(batch), two.post_payments(batch))
        await world.settled(one, two)
        assert_posted_once_in_order(world.cis, batch)
        assert one.metrics.counts["new"] + two.metrics.counts["new"] == 200
        facts = await world.rows.facts()
        assert {kind for kind, _ in facts} == {"posting.posted"}
        assert len({key for _, key in facts}) == 200

    async def test_holds_when_a_stream_is_delivered_again(self, world: World) -> None:
        accounts = world.accounts(5)
        batch = [a_posting(account_id=accounts[n % 5]) for n in range(100)]
        poster = world.instance()
        await poster.post_payments(batch)
        await world.settled(poster)
        first = await world.rows.facts()
        await poster.post_payments(batch)
        assert_posted_once_in_order(world.cis, batch)
        assert sorted((await world.rows.facts())[100:]) == sorted(first)

    async def test_holds_when_an_instance_dies_after_the_take(self, world: World) -> None:
        accounts = world.accounts(3)
        batch = [a_posting(account_id=accounts[n % 3]) for n in range(30)]
        dead = world.rows.store(lease_seconds=1.5)
        await dead.take(batch, now=utc_now(), hold=False, lanes_held=NoLanes())
        questions = world.cis.counts().get("calls_find_batch", 0)
        await world.settled(world.instance())
        assert_posted_once_in_order(world.cis, batch)
        # Nobody knows whether the dead one sent them: each was asked about before.
        assert world.cis.counts()["calls_find_batch"] - questions == 30

    async def test_holds_when_an_instance_dies_between_effect_and_settle(
        self, world: World
    ) -> None:
        accounts = world.accounts(3)
        batch = [a_posting(account_id=accounts[n % 3]) for n in range(30)]
        dead = world.rows.store(lease_seconds=1.5)
        await dead.take(batch, now=utc_now(), hold=False, lanes_held=NoLanes())
        await world.instance().gateway.post(batch[:20])
        successor = world.instance()
        await world.settled(successor)
        assert_posted_once_in_order(world.cis, batch)
        assert len(await world.rows.facts()) == 30

    async def test_holds_when_a_frozen_instance_comes_back_after_its_lease(
        self, world: World
    ) -> None:
        accounts = world.accounts(2)
        batch = [a_posting(account_id=accounts[n % 2]) for n in range(20)]
        frozen, other = world.instance(lease_seconds=1.2), world.instance()
        thawed = asyncio.Event()
        act = frozen.attempting.gateway.post

        async def freeze(postings: Sequence[Posting]) -> object:
            await thawed.wait()
            return await act(postings)

        frozen.gateway.post = freeze  # type: ignore[method-assign, assignment]
        await frozen.post_payments(batch)
        await world.settled(other)
        thawed.set()
        await eventually(lambda: is_empty(frozen))
        assert_posted_once_in_order(world.cis, batch)
        assert await world.rows.count("status = 'posted'") == 20
        assert len(await world.rows.facts()) == 20

    async def test_holds_when_two_instances_drain_one_backlog(self, world: World) -> None:
        accounts = world.accounts(25)
        batch = [a_posting(account_id=accounts[n % 25]) for n in range(600)]
        await world.rows.store().take(batch, now=utc_now(), hold=True, lanes_held=NoLanes())
        await world.settled(world.instance(), world.instance(), world.instance())
        assert_posted_once_in_order(world.cis, batch)
        facts = Counter(await world.rows.facts())
        assert set(facts.values()) == {1}
        assert Counter(kind for kind, _ in facts)["posting.posted"] == 600

    async def test_stops_at_another_amount_and_overwrites_nothing(self, world: World) -> None:
        [account] = world.accounts(1)
        first, later = a_posting(account_id=account), a_posting(account_id=account)
        world.cis.switch(exists_other_amount={"count": 1})
        poster = world.instance(batch_size=1)
        await poster.post_payments([first, later])
        await world.settled(poster)
        assert await world.rows.statuses(first, later) == ["conflicted", "posted"]
        assert world.cis.posted(account) == [str(later.id)]
        assert poster.metrics.counts["conflict"] == 1


class TestOrder:
    @pytest.mark.parametrize("seed", range(4))
    async def test_per_account_survives_any_schedule_of_failures(
        self, world: World, seed: int
    ) -> None:
        chance = random.Random(seed)
        accounts = world.accounts(6)
        accepted = [a_posting(account_id=chance.choice(accounts)) for _ in range(240)]
        instances = [world.instance(lease_seconds=2.5, seed=n, timeout_seconds=0.3) for n in (1, 2)]
        async with recovering(*instances):
            left = list(accepted)
            while left:
                size = chance.randint(1, 40)
                batch, left = left[:size], left[size:]
                world.cis.switch(**a_fault(chance, accounts))
                # Both believe for a while that the partition is theirs, as after a rebalance.
                takers = instances if chance.random() < 0.3 else [chance.choice(instances)]
                await asyncio.gather(*(taker.post_payments(batch) for taker in takers))
                await asyncio.sleep(chance.choice([0, 0.02, 0.1]))
            world.cis.switch()
            await eventually(lambda: world._count_unsettled(0), within_seconds=20)
        assert_posted_once_in_order(world.cis, accepted)
        # Who takes a batch second may find it settled, and states that again under the same ids.
        stated = {key for kind, key in await world.rows.facts() if kind == "posting.posted"}
        assert len(stated) == 240

    async def test_is_kept_behind_a_head_that_is_deferred(self, world: World) -> None:
        bad, good = world.accounts(2)
        world.cis.switch(batch_closed={"accounts": [bad]})
        poster = world.instance()
        accepted = []
        async with recovering(poster):
            for _ in range(10):
                batch = [a_posting(account_id=account) for account in (bad, bad, good)]
                accepted += batch
                await poster.post_payments(batch)
                await asyncio.sleep(0.05)
            await eventually(lambda: posted(world, good, 10))
            assert world.cis.posted(bad) == []
            world.cis.switch()
            await eventually(lambda: posted(world, bad, 20))
        assert_posted_once_in_order(world.cis, accepted)


def a_fault(chance: random.Random, accounts: Sequence[str]) -> dict[str, object]:
    some = {"accounts": chance.sample(accounts, 2)}
    faults: list[dict[str, object]] = [
        {},
        {"error_before_apply": {"share": 0.4}},
        {"error_after_apply": {"share": 0.4}},
        {"timeout_after_apply": {"count": 1}},
        {"timeout_before_apply": {"count": 1, **some}},
        {"down": some},
        {"batch_closed": some},
        {"down": {"count": 3}},
        {"wrong_answer": {"share": 0.3}},
        {"latency_ms": 20, "jitter_ms": 20},
        {"hang": {"count": 1, "operations": ["find"]}},
    ]
    return chance.choice(faults)


class TestReversals:
    async def test_before_their_payment_wait_and_are_woken(self, world: World) -> None:
        [account] = world.accounts(1)
        payment = a_posting(account_id=account)
        poster = world.instance()
        await poster.post_payments([a_reversal(payment)])
        assert world.cis.posted(account) == []
        await poster.post_payments([payment])
        await world.settled(poster)
        assert [line["kind"] for line in world.cis.journal() if line["account"] == account] == [
            *("payment", "reversal")
        ]
        assert [kind for kind, _ in await world.rows.facts()] == [
            *("posting.posted", "posting.reversed")
        ]

    async def test_wait_for_a_payment_that_is_just_being_settled(self, world: World) -> None:
        """Held back meanwhile, they would not be woken, and a later one would overtake them."""
        [account] = world.accounts(1)
        payment = a_posting(account_id=account)
        reversal = a_reversal(payment)
        poster = world.instance()

        async def take(posting: Posting) -> list[Posting]:
            taken = await poster.postings.take(
                [posting], now=utc_now(), hold=False, lanes_held=NoLanes()
            )
            return [attempt.posting for attempt in taken.attempts]

        assert await take(payment) == [payment]
        settling = await asyncpg.connect(world.rows.database.superuser_dsn)
        transaction = settling.transaction()
        await transaction.start()
        await settling.execute(
            "UPDATE cis_poster.postings SET status = 'posted', lease_owner = NULL,"
            " settled_at = now(), cis_reference = 'C-1' WHERE id = $1",
            payment.id,
        )
        taking = asyncio.create_task(take(reversal))
        done, _ = await asyncio.wait({taking}, timeout=0.5)
        assert not done
        await transaction.commit()
        await settling.close()
        assert await taking == [reversal]

    async def test_are_woken_by_a_settlement_that_has_waited_for_their_taking(
        self, world: World
    ) -> None:
        """Left waiting for the job, they would be overtaken by a reinstatement."""
        [account] = world.accounts(1)
        payment = a_posting(account_id=account)
        reversal = a_reversal(payment)
        poster = world.instance()
        taken = await poster.postings.take(
            [payment], now=utc_now(), hold=False, lanes_held=NoLanes()
        )
        taking = await asyncpg.connect(world.rows.database.superuser_dsn)
        async with taking.transaction():
            # As `take` does for one whose payment is not on the ledger.
            await taking.execute(
                "INSERT INTO cis_poster.postings (id, payment_id, kind, account_id, amount_cents,"
                " currency, effective_date, accepted_at, processor, reference, status, due_at,"
                " taken_at) SELECT $1, id, 'reversal', account_id, amount_cents, currency,"
                " effective_date, accepted_at, processor, reference, 'waiting', due_at, taken_at"
                " FROM cis_poster.postings WHERE id = $2 FOR SHARE",
                reversal.id,
                payment.id,
            )
            settling = asyncio.create_task(
                poster.postings.settle([settlement(taken.attempts[0], Status.POSTED)])
            )
            done, _ = await asyncio.wait({settling}, timeout=0.5)
            assert not done
        await taking.close()
        await settling
        assert await world.rows.statuses(payment, reversal) == ["posted", "due"]

    async def test_follow_a_released_payment_to_its_new_account(self, world: World) -> None:
        [account] = world.accounts(1)
        payment = a_posting(account_id=f"A-{uuid4().hex[:10]}")
        poster = world.instance()
        await poster.post_payments([payment, early := a_reversal(payment, amount_cents=1_000)])
        await world.settled(poster)
        assert await world.rows.statuses(payment, early) == ["suspended", "waiting"]
        await suspense(poster).release(
            posting_id=payment.id, to_account=account, operator="kim", note="moved house"
        )
        await world.settled(poster)
        # Intake knows the payment by its first account.
        await poster.post_payments([late := a_reversal(payment, amount_cents=1_500)])
        async with recovering(poster):
            await eventually(lambda: posted(world, account, 3))
        assert world.cis.posted(account) == [str(p.id) for p in (payment, early, late)]


class TestSettling:
    async def test_states_in_the_order_given_and_nothing_of_what_another_holds(
        self, world: World
    ) -> None:
        one, other = world.instance(), world.instance()
        postings = [a_posting(account_id=each) for each in world.accounts(3)]
        # Locked in the order of their ids, and stated in the other one.
        paid, refused, foreign = sorted(postings, key=lambda each: each.id)
        reversal = a_reversal(paid)

        async def take(poster: Poster, *postings: Posting) -> list[Attempt]:
            taken = await poster.postings.take(
                postings, now=utc_now(), hold=False, lanes_held=NoLanes()
            )
            return list(taken.attempts)

        assert await take(one, reversal) == []
        attempts = await take(one, refused, paid) + await take(other, foreign)
        settled = await one.postings.settle(
            [
                settlement(attempts[0], Status.SUSPENDED),
                settlement(attempts[1], Status.POSTED),
                settlement(attempts[2], Status.SUSPENDED),
            ]
        )
        stated = await world.rows.facts()
        assert [kind for kind, _ in stated] == ["posting.suspended", "posting.posted"]
        assert [row.record.key for row in settled] == [
            str(each.account_id).encode() for each in (refused, paid)
        ]
        assert await world.rows.statuses(paid, refused, foreign, reversal) == [
            *("posted", "suspended", "attempting", "due")
        ]
        failures = await world.rows.fetch("SELECT posting_id FROM failed_attempts")
        assert [row["posting_id"] for row in failures] == [refused.id]
        await other.postings.release(attempts[2:], now=utc_now())


def settlement(attempt: Attempt, status: Status) -> Settlement:
    """A posting's outcome, as `Attempting` would have it."""
    is_posted = status is Status.POSTED
    return Settlement(
        attempt=attempt,
        answer=Answer(
            outcome=Outcome.APPLIED if is_posted else Outcome.REFUSED,
            cis_reference="C-1" if is_posted else None,
            balance_cents=0 if is_posted else None,
        ),
        status=status,
        reason=None if is_posted else "account_closed",
        due_at=utc_now(),
        at=utc_now(),
        duration_ms=1,
        states_deferral=False,
    )


class TestSuspense:
    async def test_leaves_an_audit_entry_for_each_act(self, world: World) -> None:
        accounts = world.accounts(2, status="closed")
        [open_account] = world.accounts(1)
        first, second = (a_posting(account_id=account) for account in accounts)
        poster = world.instance()
        await poster.post_payments([first, second])
        await world.settled(poster)
        manage = suspense(poster)
        assert {(s.id, s.reason) for s in await manage.list(limit=10)} == {
            (first.id, "account_closed"),
            (second.id, "account_closed"),
        }
        await manage.release(
            posting_id=first.id, to_account=open_account, operator="kim", note="new account"
        )
        await manage.give_back(posting_id=second.id, operator="lou", note="refunded by card")
        await world.settled(poster)
        assert await world.rows.statuses(first, second) == ["posted", "returned"]
        entries = await world.rows.fetch("SELECT * FROM audit_entries ORDER BY id")
        assert [
            (e["operator"], e["action"], e["posting_id"], e["from_account"], e["to_account"])
            for e in entries
        ] == [
            ("kim", "release", first.id, accounts[0], open_account),
            ("lou", "return", second.id, accounts[1], None),
        ]
        assert [entry["note"] for entry in entries] == ["new account", "refunded by card"]
        assert sorted(kind for kind, _ in await world.rows.facts()) == [
            *("posting.posted", "posting.returned", "posting.suspended", "posting.suspended")
        ]

    async def test_keeps_the_failed_attempts_of_a_payment(self, world: World) -> None:
        [account] = world.accounts(1)
        posting = a_posting(account_id=account)
        world.cis.switch(error_before_apply={"count": 1})
        poster = world.instance()
        await poster.post_payments([posting])
        await world.settled(poster)
        [failure] = await world.rows.fetch("SELECT * FROM failed_attempts")
        assert (failure["posting_id"], failure["outcome"], failure["reason"]) == (
            *(posting.id, "lost", "cis_http_500"),
        )
        assert (await world.rows.row(posting))["attempts"] == 2


class TestOutage:
    async def test_drains_a_backlog_within_seconds_and_in_order(self, world: World) -> None:
        accounts = world.accounts(700)
        hot = [a_posting(account_id=accounts[0]) for _ in range(1_500)]
        rest = [a_posting(account_id=accounts[1 + n % 699]) for n in range(3_500)]
        accepted = hot + rest
        random.Random(1).shuffle(accepted)
        world.cis.switch(down=True)
        poster = world.instance(held_max=4_000)
        async with recovering(poster):
            for first in range(0, 5_000, 500):
                await poster.post_payments(accepted[first : first + 500])
            assert poster.breaker.holds or poster.lanes.held
            await asyncio.sleep(1.0)
            world.cis.switch()
            began = time.monotonic()
            await eventually(lambda: world._count_unsettled(0), within_seconds=30)
            took_seconds = time.monotonic() - began
        assert_posted_once_in_order(world.cis, accepted)
        assert took_seconds < 12, took_seconds

    async def test_one_account_that_always_times_out_slows_no_other(self, world: World) -> None:
        bad, *good = world.accounts(41)
        world.cis.switch(timeout_before_apply={"accounts": [bad]})
        poster = world.instance(timeout_seconds=0.5)
        async with recovering(poster):
            await poster.post_payments([a_posting(account_id=bad) for _ in range(20)])
            await asyncio.sleep(1.2)
            waited = []
            for n in range(40):
                posting = a_posting(account_id=good[n])
                began = time.monotonic()
                await poster.post_payments([posting, a_posting(account_id=bad)])
                await eventually(lambda account=good[n]: posted(world, account, 1))  # type: ignore[misc]
                waited.append(time.monotonic() - began)
        assert sorted(waited)[35] < 0.25, sorted(waited)
        assert world.cis.posted(bad) == []

    async def test_gives_back_at_shutdown_what_was_not_sent(self, world: World) -> None:
        accounts = world.accounts(60)
        world.cis.switch(latency_ms=200)
        poster = world.instance(connections=2, batch_size=10)
        batch = [a_posting(account_id=account) for account in accounts]
        await poster.post_payments(batch)
        await asyncio.sleep(0.05)
        await poster.lanes.close()
        statuses = Counter(await world.rows.statuses(*batch))
        assert statuses == {Status.POSTED: 20, Status.DUE: 40}
        assert await world.rows.count("lease_owner IS NOT NULL") == 0
        await world.settled(world.instance(), within_seconds=10)
        assert_posted_once_in_order(world.cis, batch)


def suspense(poster: Poster) -> ManageSuspense:
    return ManageSuspense(postings=poster.postings, announce=poster.announced, clock=utc_now)


async def posted(world: World, account: str, count: int) -> bool:
    return len(world.cis.posted(account)) == count


async def is_empty(poster: Poster) -> bool:
    return poster.lanes.held == 0
