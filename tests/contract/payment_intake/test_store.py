"""The scenarios of payment-intake's store: in memory and on PostgreSQL, one and the same."""

from dataclasses import replace
from datetime import datetime, timedelta
from itertools import product
from uuid import UUID

import pytest
from tests.support.announcing import Offered
from tests.support.intake import (
    GROSS_CENTS,
    NET_CENTS,
    NOW,
    TRACE,
    heard,
    incoming,
    observed,
    policy,
    stripe_train,
)
from tests.support.intake_database import intake_database
from tests.support.intake_store import InMemoryStore

from payment_intake.adapters.portal import PortalReader
from payment_intake.domain import (
    MOVEMENT_TRANSITIONS,
    Heard,
    MovementKind,
    MovementStatus,
    PaymentStatus,
)
from payment_intake.metrics import Metrics
from payment_intake.ports import Heard as PostingHeard
from payment_intake.ports import Outcome, OwnedMovement, Rejected, Told
from payment_intake.usecases import (
    AnnounceAgain,
    CatchingUp,
    FollowMovements,
    StateDelays,
    TakeEvents,
)
from payment_intake.usecases.following import CAUGHT_UP_MIN
from shared.ids import uuid7

CAPTURED = heard(Heard.CAPTURED)
LATER = NOW + timedelta(seconds=1)


@pytest.fixture(scope="module")
async def rows(database):
    async with intake_database(database) as found:
        yield found


@pytest.fixture(params=["memory", "postgres"])
async def store(request, rows):
    if request.param == "memory":
        return InMemoryStore()
    await rows.empty()
    return rows.store()


def taking(store, **rules) -> TakeEvents:
    return TakeEvents(store=store, policy=policy(**rules), new_id=uuid7, metrics=Metrics())


def following(store) -> FollowMovements:
    return FollowMovements(store=store, metrics=Metrics(), catching_up=CatchingUp(late_seconds=30))


async def take(store, *observations, start: int = 0) -> None:
    events = [
        incoming(each, event_id=f"evt_{start + number}") for number, each in enumerate(observations)
    ]
    assert set(await taking(store)(events)) <= {Outcome.ACCEPTED, Outcome.CONFLICT}


async def seen(store, reference: str = "pi_1"):
    view = await store.payment_by_reference(processor="stripe", reference=reference)
    assert view is not None
    return view


async def movement(store, number: int = 0):
    return (await seen(store)).movements[number]


def moved(view) -> list[tuple[str, int]]:
    """Kinds and amounts, sorted: movements of one instant are in no order."""
    return sorted((str(m.movement.kind), m.movement.amount_cents) for m in view.movements)


def posting(owned, status=MovementStatus.POSTED, **changes) -> PostingHeard:
    fields = {"movement_id": owned.movement.id, "at": LATER, "status": status}
    if status is MovementStatus.POSTED:
        fields |= {"cis_reference": "CIS-1", "balance_after_cents": -5}
    return PostingHeard(**(fields | changes))


def notice(owned, **changes) -> Told:
    fields = {
        "payment_id": owned.payment.id,
        "movement_id": owned.movement.id,
        "kind": owned.movement.kind,
        "at": LATER,
        "outcome": "sent",
    }
    return Told(**(fields | changes))


class TestTaking:
    async def test_makes_one_payment_of_the_four_events_of_a_card_payment(self, store):
        train = [incoming(each, event_id=f"e{n}") for n, each in enumerate(card_train())]
        assert await taking(store)(train) == [Outcome.ACCEPTED] * len(train)
        view = await seen(store, train[0].observation.references[0])
        assert view.status is PaymentStatus.CAPTURED
        assert [each.movement.amount_cents for each in view.movements] == [NET_CENTS]
        assert view.payment.traceparent == TRACE

    async def test_makes_the_same_of_them_one_by_one(self, store):
        for number, each in enumerate(card_train()):
            await taking(store)([incoming(each, event_id=f"e{number}")])
        view = await seen(store, card_train()[0].references[0])
        assert [each.movement.amount_cents for each in view.movements] == [NET_CENTS]

    async def test_keeps_everything_that_it_knows_of_a_payment(self, store):
        observations = [
            CAPTURED,
            heard(Heard.REFUNDED, minute=1, amount_cents=3000),
            heard(Heard.REFUND_FAILED, minute=2, amount_cents=1000, part="re_1"),
            heard(Heard.FUNDS_WITHDRAWN, minute=3, amount_cents=500, part="dp_1", code="fraud"),
            heard(Heard.FUNDS_REINSTATED, minute=4, amount_cents=500, part="dp_1"),
        ]
        for number, each in enumerate(observations):
            await take(store, each, start=number)
        view = await seen(store)
        book = view.payment.book
        assert book.refunded.cents == 3000
        assert book.refunds_failed["re_1"].since == NOW + timedelta(minutes=2)
        assert book.disputes["dp_1"].undone_at == NOW + timedelta(minutes=4)
        assert book.disputes["dp_1"].code == "fraud"
        assert moved(view) == [
            ("payment", NET_CENTS),
            ("reinstatement", 500),
            ("reinstatement", 1000),
            ("reversal", 500),
            ("reversal", 3000),
        ]

    async def test_takes_an_event_once_and_calls_it_a_duplicate_then(self, store):
        event = incoming(CAPTURED, event_id="evt_1")
        assert await taking(store)([event]) == [Outcome.ACCEPTED]
        assert await taking(store)([event, event]) == [Outcome.DUPLICATE] * 2
        assert len((await seen(store)).movements) == 1

    async def test_takes_an_event_once_that_is_twice_in_one_batch(self, store):
        event = incoming(CAPTURED, event_id="evt_1")
        assert await taking(store)([event, event]) == [Outcome.ACCEPTED, Outcome.DUPLICATE]
        assert len((await seen(store)).movements) == 1

    async def test_tells_the_same_id_of_two_sources_apart(self, store):
        event = incoming(CAPTURED, event_id="evt_1")
        other = incoming(heard(Heard.SUBMITTED), event_id="evt_1", source="/portal")
        assert await taking(store)([event, other]) == [Outcome.ACCEPTED, Outcome.ACCEPTED]

    async def test_records_the_same_id_with_another_body_and_acts_upon_the_first_only(self, store):
        await taking(store)([incoming(CAPTURED, event_id="evt_1")])
        other = incoming(heard(Heard.REFUNDED), event_id="evt_1", body=b"{ }")
        assert await taking(store)([other]) == [Outcome.CONFLICT]
        assert len((await seen(store)).movements) == 1

    async def test_records_another_amount_of_the_same_payment(self, store):
        await take(store, CAPTURED)
        other = incoming(replace(CAPTURED, amount_cents=1), event_id="evt_9")
        other = replace(other, observation=replace(other.observation, fee_cents=0))
        assert await taking(store)([other]) == [Outcome.CONFLICT]
        assert (await seen(store)).payment.amount_cents == NET_CENTS

    async def test_keeps_what_it_does_not_understand_and_ignores_it(self, store):
        unknown = incoming(event_id="evt_1", event_type="radar.early_fraud_warning.created")
        assert await taking(store)([unknown]) == [Outcome.IGNORED]
        assert await taking(store)([unknown]) == [Outcome.DUPLICATE]

    async def test_does_not_act_upon_an_untrusted_capture(self, store):
        event = incoming(event_id="evt_1", is_untrusted=True)
        assert await taking(store)([event]) == [Outcome.UNTRUSTED]

    async def test_passes_on_what_is_for_others(self, store):
        reading = PortalReader(trusted_sources=[], currencies=["USD"]).read_cloud_event(
            {
                "specversion": "1.0",
                "id": "e-1",
                "source": "/portal",
                "type": "contact.changed",
                "data": {"account_id": "1", "changed_at": "2026-03-02T17:00:00Z"},
            },
            traceparent=TRACE,
        )
        event = incoming(event_id="e-1", relay=reading.relay)
        assert await taking(store)([event]) == [Outcome.ACCEPTED]

    async def test_joins_two_names_when_an_event_says_that_they_are_one(self, store):
        await take(store, heard(Heard.REFUNDED, minute=5, references=("ch_1",)))
        await take(store, heard(Heard.SUBMITTED, references=("pi_1",)), start=1)
        await take(store, CAPTURED, start=2)
        by_charge, by_intent = await seen(store, "ch_1"), await seen(store, "pi_1")
        assert by_charge.payment.id == by_intent.payment.id
        assert by_intent.payment.references == {"ch_1", "pi_1"}
        assert moved(by_intent) == [("payment", NET_CENTS), ("reversal", NET_CENTS)]
        assert by_intent.payment.submitted_at == NOW

    async def test_joins_two_names_within_one_batch(self, store):
        await take(
            store,
            heard(Heard.REFUNDED, minute=5, references=("ch_1",)),
            heard(Heard.SUBMITTED, references=("pi_1",)),
            heard(Heard.FAILED, references=("ch_1",), part="ch_1"),
            CAPTURED,
        )
        view = await seen(store, "ch_1")
        assert view.payment.id == (await seen(store)).payment.id
        assert moved(view) == [
            ("decline", NET_CENTS),
            ("payment", NET_CENTS),
            ("reversal", NET_CENTS),
        ]

    @pytest.mark.parametrize("together", [True, False])
    async def test_keeps_two_credited_payments_apart_and_alarms(self, store, together):
        observations = [
            heard(Heard.CAPTURED, references=("pi_1",)),
            heard(Heard.CAPTURED, references=("ch_1",)),
            CAPTURED,
            heard(Heard.REFUNDED, minute=5, references=("ch_1",)),
        ]
        if together:
            await take(store, *observations)
        else:
            for number, each in enumerate(observations):
                await take(store, each, start=number)
        by_intent, by_charge = await seen(store, "pi_1"), await seen(store, "ch_1")
        assert by_intent.payment.id != by_charge.payment.id
        assert moved(by_intent) == [("payment", NET_CENTS)]
        assert moved(by_charge) == [("payment", NET_CENTS), ("reversal", NET_CENTS)]

    async def test_keeps_nothing_of_a_batch_that_fails(self, store):
        class Broken:
            def __call__(self):
                raise RuntimeError("no more ids")

        failing = replace(taking(store), new_id=Broken())
        with pytest.raises(RuntimeError):
            await failing([incoming(CAPTURED, event_id="evt_1")])
        assert await taking(store)([incoming(CAPTURED, event_id="evt_1")]) == [Outcome.ACCEPTED]


def card_train():
    return observed(stripe_train("card"))


HEARD_FIRST = {
    None: [],
    MovementStatus.ANNOUNCED: [],
    MovementStatus.SUSPENDED: [MovementStatus.SUSPENDED],
    MovementStatus.POSTED: [MovementStatus.POSTED],
    MovementStatus.CONFIRMED: [MovementStatus.POSTED, "told"],
    MovementStatus.RETURNED: [MovementStatus.RETURNED],
}
HEARABLE = [
    MovementStatus.ANNOUNCED,
    MovementStatus.SUSPENDED,
    MovementStatus.POSTED,
    MovementStatus.RETURNED,
    "told",
]
RESULTS = {
    (MovementStatus.ANNOUNCED, MovementStatus.SUSPENDED): MovementStatus.SUSPENDED,
    (MovementStatus.ANNOUNCED, MovementStatus.POSTED): MovementStatus.POSTED,
    (MovementStatus.ANNOUNCED, MovementStatus.RETURNED): MovementStatus.RETURNED,
    (MovementStatus.SUSPENDED, MovementStatus.POSTED): MovementStatus.POSTED,
    (MovementStatus.SUSPENDED, MovementStatus.RETURNED): MovementStatus.RETURNED,
    (MovementStatus.POSTED, "told"): MovementStatus.CONFIRMED,
}
"""What follows from what; anything else changes no status."""


async def hear(store, *whats) -> None:
    for what in whats:
        owned = await movement(store)
        if what == "told":
            await following(store).tell([notice(owned)])
        else:
            await following(store).hear([posting(owned, what, reason="because")])


class TestFollowing:
    @pytest.mark.parametrize(("held", "heard_now"), list(product(list(MovementStatus), HEARABLE)))
    async def test_changes_a_status_as_the_table_allows_or_not_at_all(self, store, held, heard_now):
        await take(store, CAPTURED)
        await hear(store, *HEARD_FIRST[held])
        assert (await movement(store)).status is held
        await hear(store, heard_now)
        found = (await movement(store)).status
        assert found is RESULTS.get((held, heard_now), held)
        assert found is held or (held, found) in MOVEMENT_TRANSITIONS

    async def test_ends_when_both_were_heard_the_notice_first(self, store):
        await take(store, CAPTURED)
        await hear(store, "told")
        assert (await movement(store)).status is MovementStatus.ANNOUNCED
        await hear(store, MovementStatus.POSTED)
        assert (await movement(store)).status is MovementStatus.CONFIRMED
        assert (MovementStatus.ANNOUNCED, MovementStatus.CONFIRMED) in MOVEMENT_TRANSITIONS

    async def test_ends_a_suspended_movement_whose_notice_was_heard_first(self, store):
        await take(store, CAPTURED)
        await hear(store, MovementStatus.SUSPENDED, "told", MovementStatus.POSTED)
        assert (await movement(store)).status is MovementStatus.CONFIRMED
        assert (MovementStatus.SUSPENDED, MovementStatus.CONFIRMED) in MOVEMENT_TRANSITIONS

    async def test_remembers_when_and_where_it_was_posted_first(self, store):
        await take(store, CAPTURED)
        owned = await movement(store)
        await following(store).hear([posting(owned)])
        await following(store).hear([posting(owned, at=LATER + timedelta(hours=1))])
        found = await movement(store)
        assert (found.posted_at, found.cis_reference, found.balance_after_cents) == (
            LATER,
            "CIS-1",
            -5,
        )

    async def test_says_why_a_movement_waits_until_it_is_posted(self, store):
        await take(store, CAPTURED)
        owned = await movement(store)
        await following(store).hear(
            [posting(owned, MovementStatus.ANNOUNCED, reason="cis_unavailable")]
        )
        assert (await movement(store)).wait_reason == "cis_unavailable"
        await following(store).hear([posting(owned)])
        assert (await movement(store)).wait_reason is None
        await following(store).hear(
            [posting(owned, MovementStatus.ANNOUNCED, reason="cis_unavailable")]
        )
        assert (await movement(store)).wait_reason is None

    async def test_applies_several_facts_of_one_batch_in_their_order(self, store):
        await take(store, CAPTURED)
        owned = await movement(store)
        await following(store).hear(
            [
                posting(owned, MovementStatus.ANNOUNCED, reason="cis_unavailable"),
                posting(owned, MovementStatus.SUSPENDED, reason="account_unknown"),
                posting(owned),
            ]
        )
        found = await movement(store)
        assert (found.status, found.wait_reason) == (MovementStatus.POSTED, None)

    async def test_tells_once_what_is_newly_on_the_ledger(self, store):
        await take(store, CAPTURED)
        owned = await movement(store)
        news = []
        for _ in range(2):
            news.append(await store.hear([posting(owned)]))
        assert news == [[(owned.movement.id, MovementKind.PAYMENT, NOW)], []]

    async def test_does_not_mind_movements_that_it_does_not_know(self, store):
        await take(store, CAPTURED)
        owned = await movement(store)
        await following(store).hear([posting(owned, movement_id=UUID(int=9))])
        await following(store).tell([notice(owned, payment_id=UUID(int=9))])
        assert (await movement(store)).status is MovementStatus.ANNOUNCED

    async def test_ends_the_movement_of_the_notices_kind_only(self, store):
        await take(store, CAPTURED, heard(Heard.REFUNDED, minute=1))
        both = {each.movement.kind: each for each in (await seen(store)).movements}
        await following(store).hear([posting(each) for each in both.values()])
        await following(store).tell([notice(both[MovementKind.REVERSAL])])
        assert {m.movement.kind: m.status for m in (await seen(store)).movements} == {
            MovementKind.PAYMENT: MovementStatus.POSTED,
            MovementKind.REVERSAL: MovementStatus.CONFIRMED,
        }

    async def test_ends_a_decline_by_its_notice_alone(self, store):
        await take(store, heard(Heard.FAILED, part="ch_1"))
        owned = await movement(store)
        assert owned.movement.kind is MovementKind.DECLINE
        await following(store).tell([notice(owned, movement_id=None)])
        found = await movement(store)
        assert (found.status, found.notification) == (MovementStatus.CONFIRMED, "sent")


def again(store) -> AnnounceAgain:
    return AnnounceAgain(
        store=store,
        announce=Offered(),
        metrics=Metrics(),
        catching_up=CatchingUp(late_seconds=30),
        first_seconds=30,
        cap_seconds=100,
    )


class TestAnnouncingAgain:
    async def test_waits_longer_each_time_up_to_its_cap(self, store):
        await take(store, CAPTURED)
        due = []
        for second in range(0, 700, 10):
            if await again(store)(now=NOW + timedelta(seconds=second), limit=10):
                due.append(second)
        # First after 30 s, then 60 s later, then every 100 s.
        assert due == [30, 90, 190, 290, 390, 490, 590, 690]
        assert (await movement(store)).announcements == 9

    @pytest.mark.parametrize("ended", [[MovementStatus.POSTED, "told"], [MovementStatus.RETURNED]])
    async def test_ends_with_the_chain(self, store, ended):
        await take(store, CAPTURED)
        await hear(store, *ended)
        assert await again(store)(now=NOW + timedelta(days=1), limit=10) == 0

    async def test_goes_on_while_the_customer_has_not_been_told(self, store):
        await take(store, CAPTURED)
        await hear(store, MovementStatus.POSTED)
        assert await again(store)(now=NOW + timedelta(days=1), limit=10) == 1

    async def test_takes_no_more_than_its_limit_the_longest_waiting_first(self, store):
        for number in range(3):
            one = heard(Heard.CAPTURED, references=(f"pi_{number}",))
            at = NOW + timedelta(seconds=number)
            await taking(store)([incoming(one, event_id=f"e{number}", received_at=at)])
        late = NOW + timedelta(hours=1)
        async with store.transaction() as unit:
            claimed = await unit.claim_unfinished(
                now=late, limit=2, first_seconds=30, cap_seconds=100
            )
        found = {min(each.payment.references) for each in claimed}
        assert found == {"pi_0", "pi_1"}
        assert await again(store)(now=late, limit=10) == 1

    async def test_rests_while_kafka_has_not_taken_the_first_announcement(self, store):
        await take(store, CAPTURED)
        resting = replace(again(store), announce=Behind())
        assert await resting(now=NOW + timedelta(days=1), limit=10) == 0
        assert (await movement(store)).announcements == 1

    @pytest.mark.parametrize(("late", "rests"), [(CAUGHT_UP_MIN, True), (CAUGHT_UP_MIN - 1, False)])
    @pytest.mark.parametrize("comes", ["posted", "told"])
    async def test_rests_while_all_that_comes_through_is_late(self, store, comes, late, rests):
        owned = []
        for number in range(late):
            one = heard(Heard.CAPTURED, references=(f"pi_{number}",))
            await taking(store)([incoming(one, event_id=f"e{number}", received_at=NOW)])
            owned += (await seen(store, f"pi_{number}")).movements
        at = NOW + timedelta(seconds=31)
        catching_up = CatchingUp(late_seconds=30)
        follow = replace(following(store), catching_up=catching_up)
        if comes == "told":
            await following(store).hear([posting(each) for each in owned[1:]])
            await follow.tell([notice(each, at=at) for each in owned])
        else:
            await follow.hear([posting(each, at=at) for each in owned])
        resting = replace(again(store), catching_up=catching_up)
        assert (await resting(now=at, limit=100) == 0) is rests


class Behind(Offered):
    def was_behind(self, *, within_seconds: float) -> bool:
        return True


def delays(store, *, catching_up: CatchingUp | None = None) -> StateDelays:
    return StateDelays(
        store=store,
        metrics=Metrics(),
        catching_up=catching_up or CatchingUp(late_seconds=30),
        limit_seconds=60,
    )


class TestDelays:
    async def test_are_stated_once_when_the_limit_has_passed(self, store):
        await take(store, CAPTURED)
        assert await delays(store)(now=NOW + timedelta(seconds=59), limit=10) == 0
        late = NOW + timedelta(seconds=60)
        assert await delays(store)(now=late, limit=10) == 1
        assert (await movement(store)).delayed_at == late
        assert await delays(store)(now=NOW + timedelta(days=1), limit=10) == 0

    @pytest.mark.parametrize("heard_first", [MovementStatus.POSTED, MovementStatus.RETURNED])
    async def test_are_not_stated_of_what_is_settled(self, store, heard_first):
        await take(store, CAPTURED)
        await hear(store, heard_first)
        assert await delays(store)(now=NOW + timedelta(days=1), limit=10) == 0

    async def test_are_stated_of_what_is_suspended(self, store):
        await take(store, CAPTURED)
        await hear(store, MovementStatus.SUSPENDED)
        assert await delays(store)(now=NOW + timedelta(days=1), limit=10) == 1

    async def test_are_not_stated_of_those_whose_turn_it_is_until_twice_the_limit(self, store):
        async def accepted(name: str, *, seconds_ago: int) -> OwnedMovement:
            at = NOW - timedelta(seconds=seconds_ago)
            one = heard(Heard.CAPTURED, references=(name,))
            await taking(store)([incoming(one, event_id=name, received_at=at)])
            [owned] = (await seen(store, name)).movements
            return owned

        late = [await accepted(f"pi_{n}", seconds_ago=70) for n in range(CAUGHT_UP_MIN)]
        await accepted("pi_behind", seconds_ago=100)
        await accepted("pi_next", seconds_ago=62)
        suspended = await accepted("pi_suspended", seconds_ago=62)
        catching_up = CatchingUp(late_seconds=30)
        follow = replace(following(store), catching_up=catching_up)
        await follow.hear([posting(each, at=NOW) for each in late])
        await follow.hear([posting(suspended, status=MovementStatus.SUSPENDED)])

        async def stated(now: datetime) -> set[str]:
            await delays(store, catching_up=catching_up)(now=now, limit=10)
            names = ("pi_behind", "pi_next", "pi_suspended")
            views = [await seen(store, name) for name in names]
            return {min(v.payment.references) for v in views if v.movements[0].delayed_at == now}

        assert await stated(NOW) == {"pi_behind", "pi_suspended"}
        assert await stated(NOW + timedelta(seconds=57)) == set()
        assert await stated(NOW + timedelta(seconds=58)) == {"pi_next"}

    async def test_are_stated_of_payments_only(self, store):
        await take(store, heard(Heard.FAILED, part="ch_1"))
        assert await delays(store)(now=NOW + timedelta(days=1), limit=10) == 0


class TestReading:
    async def test_finds_a_payment_by_its_id_and_by_each_of_its_names(self, store):
        await take(store, CAPTURED)
        by_name = await seen(store, "ch_1")
        by_id = await store.payment(by_name.payment.id)
        assert by_id == by_name
        assert by_id.payment.references == {"pi_1", "ch_1"}
        assert by_id.payment.fee_cents == GROSS_CENTS - NET_CENTS

    async def test_finds_nothing_where_there_is_nothing(self, store):
        assert await store.payment(UUID(int=9)) is None
        assert await store.payment_by_reference(processor="stripe", reference="pi_9") is None
        assert await store.payments_of_account(account_id="9", before=None, limit=5) == []

    async def test_lists_an_accounts_payments_newest_first_in_pages(self, store):
        for number in range(5):
            one = heard(Heard.CAPTURED, references=(f"pi_{number}",))
            at = NOW + timedelta(minutes=number)
            await taking(store)([incoming(one, event_id=f"e{number}", received_at=at)])

        async def page(before):
            found = await store.payments_of_account(account_id="1002003", before=before, limit=3)
            return [min(view.payment.references) for view in found], found[-1].payment.id

        first, before = await page(None)
        second, _ = await page(before)
        assert (first, second) == (["pi_4", "pi_3", "pi_2"], ["pi_1", "pi_0"])

    async def test_loses_no_payment_of_one_instant_between_pages(self, store):
        for number in range(4):
            one = heard(Heard.CAPTURED, references=(f"pi_{number}",))
            await taking(store)([incoming(one, event_id=f"e{number}")])
        found, before = [], None
        for _ in range(4):
            [view] = await store.payments_of_account(account_id="1002003", before=before, limit=1)
            found.append(min(view.payment.references))
            before = view.payment.id
        assert sorted(found) == ["pi_0", "pi_1", "pi_2", "pi_3"]

    async def test_keeps_what_was_refused_as_evidence_newest_first(self, store):
        refused = [
            Rejected(
                id=UUID(int=number),
                source="stripe",
                reason="amount is not",
                field="data.object.amount",
                body=b"\xff{",
                received_at=NOW,
            )
            for number in (1, 2, 3)
        ]
        for each in refused:
            await store.keep_rejected(each)
        assert await store.rejections(limit=2) == [refused[2], refused[1]]

    async def test_measures_the_chains_that_have_not_ended(self, store):
        for number in range(3):
            one = heard(Heard.CAPTURED, references=(f"pi_{number}",))
            await taking(store)([incoming(one, event_id=f"e{number}")])
        owned = (await seen(store, "pi_1")).movements[0]
        await following(store).hear([posting(owned)])
        found = await store.backlog(now=NOW + timedelta(seconds=30))
        assert list(found) == [
            ("announced", 2, 30.0),
            ("posted", 1, 30.0),
            ("suspended", 0, 0.0),
        ]
