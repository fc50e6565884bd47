"""What `Notifications` and `Contacts` do: held to it are the fake and PostgreSQL."""

from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from tests.support.backends import TestDatabase
from tests.support.lanes import InHand
from tests.unit.notifier import autopay_facts as autopay
from tests.unit.notifier.fakes import (
    NOON,
    InMemoryNotifications,
    a_contact,
    a_notification,
)

from notifier.adapters.repositories import SqlContacts, SqlNotifications
from notifier.adapters.tables import outbox
from notifier.consumers import to_notification
from notifier.domain import (
    Answer,
    Attempt,
    Decision,
    Kind,
    Notification,
    Outcome,
    Status,
    decide,
)
from notifier.ports import Contacts, Notifications, Settlement
from shared.contracts.streams import NOTIFICATIONS
from shared.db.engine import build_engine
from shared.db.migrations import migrate
from shared.outbox.table import Outbox, OutboxRow

LATER = NOON + timedelta(seconds=10)
AFTER_THE_LEASE = NOON + timedelta(seconds=91)


@pytest.fixture(scope="module")
def url(database: TestDatabase) -> Iterator[str]:
    url = database.dsns["notifier"].replace("postgresql://", "postgresql+asyncpg://")
    with ThreadPoolExecutor(1) as executor:
        executor.submit(migrate, url=url, package="notifier").result()
    yield url


@pytest.fixture(scope="module")
async def engine(url: str) -> AsyncIterator[AsyncEngine]:
    engine = build_engine(url=url, application_name="test", pool_size=4)
    yield engine
    await engine.dispose()


@pytest.fixture(params=["fake", "postgres"])
def stores(request: pytest.FixtureRequest) -> tuple[Notifications, Contacts]:
    if request.param == "fake":
        fake = InMemoryNotifications()
        return fake, fake
    engine = request.getfixturevalue("engine")
    return (
        SqlNotifications(engine=engine, outbox=Outbox(table=outbox), lease_seconds=90.0),
        SqlContacts(engine=engine),
    )


@pytest.fixture
def notifications(stores: tuple[Notifications, Contacts]) -> Notifications:
    return stores[0]


@pytest.fixture
def contacts(stores: tuple[Notifications, Contacts]) -> Contacts:
    return stores[1]


@pytest.fixture
async def account(contacts: Contacts) -> str:
    """An account of the test's own, with an address."""
    account = f"A-{uuid4()}"
    await contacts.keep([a_contact(account_id=account)])
    return account


def a_notice(fact) -> Notification:
    notification = to_notification(autopay.received(fact))
    assert notification is not None
    return notification


async def take(notifications, *batch, now=NOON, hold=False, held=()):
    lanes = InHand(*held, lane_of=lambda attempt: attempt.notification.account_id)
    return await notifications.take(batch, now=now, hold=hold, lanes_held=lanes)


async def claim(notifications, account, *, now):
    """Claim all that is due; return what of it is the account's."""
    claimed = await notifications.claim_due(now=now, limit=1000)
    return [each for each in claimed.attempts if each.notification.account_id == account]


def settlement(attempt: Attempt, outcome: Outcome, *, at=LATER, due_at=LATER) -> Settlement:
    answer = Answer(outcome=outcome, reason=None if outcome is Outcome.SENT else "smtp_451")
    decision: Decision = decide(attempt=attempt, answer=answer, attempts_max=5)
    return Settlement(
        attempt=attempt,
        answer=answer,
        decision=decision,
        message_id=f"<{attempt.notification.id}@springfield.example>",
        due_at=due_at,
        at=at,
        duration_ms=3,
    )


def facts(rows: list[OutboxRow]) -> list[tuple[str, UUID]]:
    """Return type and notification of each announced fact."""
    found = []
    for row in rows:
        fact_type = dict(row.record.headers)["ce_type"].decode()
        fact = NOTIFICATIONS.by_type[fact_type].model_validate_json(row.record.value)
        found.append((fact_type, fact.notification_id))
    return found


class TestTake:
    async def test_leases_what_is_new_in_order(self, notifications, account):
        batch = [a_notification(account_id=account) for _ in range(5)]
        taken = await take(notifications, *batch)
        assert [attempt.notification for attempt in taken.attempts] == batch
        assert {attempt.leased_until for attempt in taken.attempts} == {
            NOON + timedelta(seconds=90)
        }
        assert (taken.inserted, taken.duplicates, list(taken.rows)) == (5, 0, [])

    async def test_takes_once_what_comes_twice(self, notifications, account):
        notification = a_notification(account_id=account)
        first = await take(notifications, notification, notification)
        again = await take(notifications, notification)
        assert (first.inserted, first.duplicates, len(first.attempts)) == (1, 1, 1)
        assert (again.inserted, again.duplicates, len(again.attempts)) == (0, 1, 0)
        assert list(again.rows) == []

    async def test_says_again_what_has_become_of_a_settled_one(self, notifications, account):
        sent = a_notification(account_id=account)
        [attempt] = (await take(notifications, sent)).attempts
        said = await notifications.settle([settlement(attempt, Outcome.SENT)])
        again = (await take(notifications, sent)).rows
        assert facts(said) == facts(again) == [("notification.sent", sent.id)]
        assert [row.record for row in said] == [row.record for row in again]

    @pytest.mark.parametrize(
        ("contact", "reason"),
        [
            (None, "no_address"),
            (a_contact(email=None), "no_address"),
            (a_contact(opted_out=True), "opted_out"),
        ],
    )
    async def test_skips_whom_it_cannot_tell_and_says_so_again(
        self, notifications, contacts, contact, reason
    ):
        account = f"A-{uuid4()}"
        if contact is not None:
            await contacts.keep([replace(contact, account_id=account)])
        notification = a_notification(account_id=account)
        taken = await take(notifications, notification)
        again = await take(notifications, notification)
        assert not taken.attempts
        assert list(taken.skipped) == [notification]
        assert f'"reason":"{reason}"'.encode() in taken.rows[0].record.value
        assert [row.record for row in taken.rows] == [row.record for row in again.rows]

    async def test_skips_what_names_no_account(self, notifications):
        taken = await take(notifications, a_notification(kind=Kind.DECLINED, account_id=None))
        assert b'"reason":"no_account"' in taken.rows[0].record.value

    async def test_skips_a_delay_whose_posting_was_told_of(self, notifications, account):
        key = uuid4()
        await take(notifications, a_notification(account_id=account, posting_key=key))
        delayed = a_notification(kind=Kind.DELAYED, account_id=account, posting_key=key)
        taken = await take(notifications, delayed)
        assert b'"reason":"superseded"' in taken.rows[0].record.value

    async def test_leases_nothing_on_hold(self, notifications, account):
        notification = a_notification(account_id=account)
        taken = await take(notifications, notification, hold=True)
        assert (taken.inserted, list(taken.attempts)) == (1, [])
        [attempt] = await claim(notifications, account, now=NOON)
        assert attempt.notification == notification

    async def test_leaves_due_what_is_behind_an_unsettled_one(self, notifications, account):
        first, second = a_notification(account_id=account), a_notification(account_id=account)
        await take(notifications, first)
        assert not (await take(notifications, second)).attempts

    async def test_sends_what_is_behind_what_this_process_has_in_hand(self, notifications, account):
        [first] = (await take(notifications, a_notification(account_id=account))).attempts
        taken = await take(notifications, a_notification(account_id=account), held=[first])
        assert len(taken.attempts) == 1

    async def test_does_not_overtake_what_stands_behind_what_is_in_hand(
        self, notifications, account
    ):
        [first] = (await take(notifications, a_notification(account_id=account))).attempts
        await take(notifications, a_notification(account_id=account), hold=True)
        taken = await take(notifications, a_notification(account_id=account), held=[first])
        assert not taken.attempts


class TestTakeOfAutopay:
    @pytest.mark.parametrize(
        "state",
        [
            autopay.activated,
            autopay.refused,
            autopay.stopped,
            autopay.invited,
            autopay.announced,
            autopay.held,
            autopay.failed,
            autopay.closed,
            autopay.refunded,
            autopay.expiring,
        ],
    )
    async def test_keeps_what_is_to_be_told_whole(self, notifications, account, state):
        notice = a_notice(state(account_id=account, enrolment_id=uuid4(), charge_id=uuid4()))
        await take(notifications, notice, hold=True)
        [attempt] = await claim(notifications, account, now=LATER)
        assert attempt.notification == notice

    async def test_sends_an_invitation_to_the_address_that_it_names(self, notifications):
        account = f"A-{uuid4()}"
        invitation = a_notice(autopay.invited(account_id=account))
        [attempt] = (await take(notifications, invitation)).attempts
        assert (attempt.contact.email, attempt.contact.locale) == ("ana@example.org", "es")
        [again] = await claim(notifications, account, now=AFTER_THE_LEASE)
        assert again.contact == attempt.contact

    async def test_invites_nobody_who_wants_no_mail(self, notifications, contacts, account):
        await contacts.keep([a_contact(account_id=account, opted_out=True)])
        taken = await take(notifications, a_notice(autopay.invited(account_id=account)))
        assert b'"reason":"opted_out"' in taken.rows[0].record.value

    async def test_tells_what_is_owed_to_who_wants_no_mail(self, notifications, contacts, account):
        await contacts.keep([a_contact(account_id=account, opted_out=True)])
        notice = a_notice(autopay.announced(account_id=account, charge_id=uuid4()))
        assert len((await take(notifications, notice)).attempts) == 1

    async def test_says_of_which_fact_it_tells_and_says_so_again(self, notifications, account):
        fact = autopay.failed(account_id=account, charge_id=uuid4())
        [attempt] = (await take(notifications, a_notice(fact))).attempts
        said = await notifications.settle([settlement(attempt, Outcome.SENT)])
        again = (await take(notifications, a_notice(fact))).rows
        assert [row.record for row in said] == [row.record for row in again]
        stated = NOTIFICATIONS.by_type["notification.sent"].model_validate_json(
            said[0].record.value
        )
        assert (stated.about, stated.kind) == (fact.id(), "charge_declined")
        assert (stated.payment_id, stated.posting_key) == (autopay.DECLINED_PAYMENT, None)

    @pytest.mark.parametrize("together", [True, False])
    async def test_skips_an_announcement_after_a_later_one(self, notifications, account, together):
        charge = {"account_id": account, "charge_id": uuid4()}
        first = a_notice(autopay.announced(version=1, **charge))
        third = a_notice(autopay.announced(version=3, **charge))
        other = a_notice(autopay.announced(version=1, account_id=account, charge_id=uuid4()))
        if together:
            taken = await take(notifications, first, third, other)
            assert [each.notification for each in taken.attempts] == [third, other]
        else:
            held = (await take(notifications, third)).attempts
            taken = await take(notifications, first, other, held=held)
            assert [each.notification for each in taken.attempts] == [other]
        assert list(taken.skipped) == [first]
        assert b'"reason":"superseded"' in taken.rows[0].record.value

    async def test_skips_at_last_what_was_announced_anew_while_it_waited(
        self, notifications, account
    ):
        charge = {"account_id": account, "charge_id": uuid4()}
        first, second = (a_notice(autopay.announced(version=n, **charge)) for n in (1, 2))
        await take(notifications, first, hold=True)
        await take(notifications, second, hold=True)
        claimed = await notifications.claim_due(now=LATER, limit=1000)
        assert first in claimed.skipped
        assert second in [each.notification for each in claimed.attempts]

    async def test_skips_an_announcement_that_has_waited_past_its_day(self, notifications, account):
        notice = a_notice(autopay.announced(account_id=account, charge_id=uuid4()))
        await take(notifications, notice, hold=True)
        claimed = await notifications.claim_due(now=NOON + timedelta(days=30), limit=1000)
        assert notice in claimed.skipped
        assert ("notification.skipped", notice.id) in facts(claimed.rows)


class TestClaimDue:
    async def test_takes_up_what_is_due_and_not_before(self, notifications, account):
        [attempt] = (await take(notifications, a_notification(account_id=account))).attempts
        await notifications.settle([settlement(attempt, Outcome.DEFERRED, due_at=LATER)])
        assert await claim(notifications, account, now=LATER - timedelta(seconds=1)) == []
        [again] = await claim(notifications, account, now=LATER)
        assert (again.attempts, again.repeats) == (1, 0)

    async def test_takes_up_a_lapsed_lease_as_a_repeat(self, notifications, account):
        await take(notifications, a_notification(account_id=account))
        assert await claim(notifications, account, now=LATER) == []
        [again] = await claim(notifications, account, now=AFTER_THE_LEASE)
        assert again.repeats == 1

    async def test_gives_nobody_else_what_it_has_leased(self, notifications, account):
        await take(notifications, a_notification(account_id=account), hold=True)
        assert len(await claim(notifications, account, now=LATER)) == 1
        assert await claim(notifications, account, now=LATER) == []

    async def test_holds_back_what_is_behind_one_that_waits_longer(self, notifications, account):
        first, second = a_notification(account_id=account), a_notification(account_id=account)
        [attempt] = (await take(notifications, first)).attempts
        await take(notifications, second)
        due_at = NOON + timedelta(seconds=20)
        await notifications.settle([settlement(attempt, Outcome.DEFERRED, due_at=due_at)])
        assert await claim(notifications, account, now=LATER) == []
        # Both by one claim, or one after the other: in their order.
        claimed = await claim(notifications, account, now=due_at)
        assert [each.notification for each in claimed][:1] == [first]
        await notifications.settle([settlement(each, Outcome.SENT, at=due_at) for each in claimed])
        rest = await claim(notifications, account, now=due_at)
        assert [each.notification for each in [*claimed, *rest]] == [first, second]

    async def test_skips_who_cannot_be_told_any_more(self, notifications, contacts, account):
        notification = a_notification(account_id=account)
        await take(notifications, notification, hold=True)
        await contacts.keep([a_contact(account_id=account, email=None, changed_at=LATER)])
        claimed = await notifications.claim_due(now=LATER, limit=1000)
        assert notification in claimed.skipped
        assert ("notification.skipped", notification.id) in facts(claimed.rows)
        assert await claim(notifications, account, now=AFTER_THE_LEASE) == []

    async def test_tells_a_new_address(self, notifications, contacts, account):
        await take(notifications, a_notification(account_id=account), hold=True)
        new = a_contact(account_id=account, email="new@example.org", changed_at=LATER)
        await contacts.keep([new])
        [attempt] = await claim(notifications, account, now=LATER)
        assert attempt.contact == new


class TestSettle:
    async def test_states_nothing_of_what_is_to_be_tried_again(self, notifications, account):
        [attempt] = (await take(notifications, a_notification(account_id=account))).attempts
        assert await notifications.settle([settlement(attempt, Outcome.DEFERRED)]) == []

    async def test_states_what_has_failed_with_its_reason(self, notifications, account):
        [attempt] = (await take(notifications, a_notification(account_id=account))).attempts
        [row] = await notifications.settle([settlement(attempt, Outcome.REFUSED)])
        assert facts([row]) == [("notification.failed", attempt.notification.id)]
        assert b'"reason":"smtp_451"' in row.record.value

    async def test_leaves_alone_what_another_one_has_leased(self, notifications, account):
        [lapsed] = (await take(notifications, a_notification(account_id=account))).attempts
        [holder] = await claim(notifications, account, now=AFTER_THE_LEASE)
        assert await notifications.settle([settlement(lapsed, Outcome.REFUSED)]) == []
        assert len(await notifications.settle([settlement(holder, Outcome.SENT)])) == 1

    async def test_believes_whoever_has_sent_it(self, notifications, account):
        [lapsed] = (await take(notifications, a_notification(account_id=account))).attempts
        [holder] = await claim(notifications, account, now=AFTER_THE_LEASE)
        assert len(await notifications.settle([settlement(lapsed, Outcome.SENT)])) == 1
        assert await notifications.settle([settlement(holder, Outcome.SENT)]) == []

    async def test_is_final(self, notifications, account):
        [attempt] = (await take(notifications, a_notification(account_id=account))).attempts
        await notifications.settle([settlement(attempt, Outcome.SENT)])
        assert await notifications.settle([settlement(attempt, Outcome.REFUSED)]) == []


class TestRelease:
    async def test_makes_due_what_is_still_ours(self, notifications, account):
        [attempt] = (await take(notifications, a_notification(account_id=account))).attempts
        await notifications.release([attempt], now=LATER)
        [again] = await claim(notifications, account, now=LATER)
        assert again.repeats == 0
        await notifications.release([attempt], now=LATER)
        assert await claim(notifications, account, now=LATER) == []


class TestBacklog:
    async def test_counts_what_is_not_settled(self, notifications, account):
        before = {status: count for status, count, _ in await notifications.backlog(now=LATER)}
        await take(notifications, a_notification(account_id=account), hold=True)
        after = {
            status: (count, age) for status, count, age in await notifications.backlog(now=LATER)
        }
        assert set(after) == {Status.DUE, Status.SENDING}
        assert after["due"][0] == before["due"] + 1
        assert after["due"][1] >= 10.0


class TestContacts:
    async def test_the_last_word_wins_whatever_the_order(self, notifications, contacts, account):
        newer = a_contact(account_id=account, email="new@example.org", changed_at=LATER)
        assert await contacts.keep([newer]) == 1
        assert await contacts.keep([a_contact(account_id=account, email="old@example.org")]) == 0
        taken = await take(notifications, a_notification(account_id=account))
        assert taken.attempts[0].contact == newer

    async def test_a_registration_takes_back_no_opt_out(self, notifications, contacts, account):
        await contacts.keep([a_contact(account_id=account, opted_out=True)])
        await contacts.keep([a_contact(account_id=account, opted_out=None, changed_at=LATER)])
        taken = await take(notifications, a_notification(account_id=account))
        assert b'"reason":"opted_out"' in taken.rows[0].record.value
